// A product with a weight that is used once: whoever takes a panel of its columns packs it and multiplies rows by it.
//
// The packed panel stays in L2 while the rows pass. Limit: FMA throughput from some 50 rows on, reading the weight for
// a few. A row's sum runs over the depth in order, in one accumulator, whatever the other rows are (panel_gemm.cpp).
#include "linear_kernel.h"

#include <type_traits>

#include "../runtime/team.h"
#include "pack.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

constexpr int64_t kChunkRows = 240;  // whose sums and addresses are held at a time; whole tiles

template <typename E>
struct Scratch {
  Word<E>* panel;
  E* converted;  // rows of the weight, where they are not of type E
  const E** rows;
  Accumulator<E>*bias, *sums;

  int64_t carve(const Linear<E>& a, std::byte* at) {
    constexpr int64_t kColumns = kPanelVectors * kLanes<E>;
    Carver carver(at);
    panel = carver.take<Word<E>>(packed_words<E>(kPanelVectors, a.depth));
    converted = carver.take<E>(a.transposed ? kGroup<E> * kColumns : kLanes<E> * a.depth);
    rows = carver.take<const E*>(kChunkRows + kTileRows);
    bias = carver.take<Accumulator<E>>(kColumns);
    sums = carver.take<Accumulator<E>>(kChunkRows * kColumns);
    return carver.taken();
  }
};

template <typename E>
PanelSet<E> panels_of(const Linear<E>& a) {
  return {nullptr, a.depth, 0, column_vectors<E>(a.columns)};
}

template <typename E>
int64_t panels(const Linear<E>& a) {
  return panels_of(a).count();
}

template <typename E>
int64_t scratch_bytes(const Linear<E>& a) {
  return Scratch<E>().carve(a, nullptr);
}

template <typename E>
void pack(const Linear<E>& a, const Panel<E>& panel, int64_t column, E* converted) {
  if (!a.transposed) {
    pack_transposed_panel<E>(panel, {a.weight, a.depth, {}, converted}, a.columns, column);
    return;
  }
  const DroppedWeight<E> weight{a.weight, a.columns, {}, converted};
  const int64_t count = smaller(panel.width * kLanes<E>, a.columns - column);
  for (int64_t group = 0; group < depth_groups<E>(a.depth); ++group) {
    const E* row[kGroup<E>];
    for (int64_t i = 0; i < kGroup<E>; ++i) {
      const int64_t k = group * kGroup<E> + i;
      row[i] = k < a.depth ? weight.row(k, column, count, i) : nullptr;
    }
    pack_group(panel, group, row, count);
  }
}

template <typename E>
void run(const Linear<E>& a, int64_t index, int64_t first, int64_t last, std::byte* scratch) {
  using Acc = Accumulator<E>;
  const FlushDenormals flush;
  Scratch<E> s{};
  s.carve(a, scratch);
  const PanelSet<E> set = panels_of(a);
  const int64_t column = set.column(index), width = set.width(index) * kLanes<E>;
  const Panel<E> panel{s.panel, set.width(index), a.depth, /*alone=*/true};
  pack(a, panel, column, s.converted);
  for (int64_t j = 0; j < width; j += kLanes<E>)
    store<Acc>(s.bias + j, a.bias != nullptr && column + j < a.columns
                               ? load<Acc>(a.bias + column + j, a.columns - column - j)
                               : Vec<Acc>{});
  for (int64_t begin = first; begin < last; begin += kChunkRows) {
    const int64_t count = smaller(kChunkRows, last - begin);
    for (int64_t r = 0; r < count; ++r) s.rows[r] = a.input + (begin + r) * a.depth;
    E* output = a.output + begin * a.columns;
    if constexpr (std::is_same_v<E, Acc>) {
      if (column + width <= a.columns) {  // sums go where they belong
        multiply_panel<E>(Sums<E>{output + column, a.columns}, {s.bias, 0}, {s.rows, count}, panel);
        continue;
      }
    }
    multiply_panel<E>(s.sums, {s.bias, 0}, {s.rows, count}, panel);
    store_tile(output, a.columns, column, s.sums, count, panel.width);
  }
}

template <typename E>
constexpr LinearKernels<E> kernels_of = {panels<E>, scratch_bytes<E>, run<E>};

}  // namespace

extern const LinearKernels<float> linear_float;
extern const LinearKernels<double> linear_double;
extern const LinearKernels<Bfloat16> linear_bfloat16;
const LinearKernels<float> linear_float = kernels_of<float>;
const LinearKernels<double> linear_double = kernels_of<double>;
const LinearKernels<Bfloat16> linear_bfloat16 = kernels_of<Bfloat16>;

}  // namespace ulmfit_fast::ULMFIT_ISA
