// Cross-entropy of a linear layer and its gradients on CPU, compiled once per instruction set.
//
//   l = x W^T + b;  n = log sum exp l;  loss = n - (1-s) l[target] - s mean(l)
//   grad l = (softmax(l) - (1-s) [target] - s/V) * row weight;  grad x = grad l W;  grad W = grad l^T x;  grad b = sum
//
// A chunk of rows at a time. Panel by panel of classes the product's logits become exp(l - the panel's largest) while
// they are in L2, and that is all that is kept of them. When each row's normalizer is known, pieces of the classes turn
// them into grad W, pieces of the rows into grad x: both scale what was kept on its way into their products, so that no
// sum crosses threads and bits depend neither on the thread count nor (the losses and grad x) on the other rows.
// Limit: FMA throughput.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../lstm/cell_math.h"
#include "linear_cross_entropy_plan.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

template <typename E>
class CrossEntropySlice {
  using Acc = Accumulator<E>;
  static constexpr int64_t kLane = kLanes<E>;

 public:
  CrossEntropySlice(const LinearCrossEntropy<E>& args, int64_t index) : a_(args), plan_(args), index_(index) {
    std::byte* own = a_.scratch + shared_.carve(a_, a_.scratch);
    own += index * scratch_.carve(a_, nullptr);
    scratch_.carve(a_, own);
  }

  // Once: what does not change from chunk to chunk.
  void prepare() {
    const Range columns(plan_.panels * kPanelColumns<E>, index_, a_.slices);
    for (int64_t j = columns.first; j < columns.last; ++j)
      shared_.bias[j] = j >= a_.classes      ? -std::numeric_limits<Acc>::infinity()
                        : a_.bias == nullptr ? Acc{0}
                                             : a_.bias[j];
    if (a_.grad_input == nullptr) return;
    const Range slabs(plan_.slabs, index_, a_.slices);
    for (int64_t slab = slabs.first; slab < slabs.last; ++slab) {
      const PanelSet<E> set = slab_panels(slab);
      pack_panels<E>(set, 0, set.count(), weight(slab * kClassesAtATime));
    }
  }

  // The right operand of grad W, and each row's weight.
  void prepare_rows(int64_t chunk) {
    const int64_t count = rows_of(chunk);
    if (a_.row_weight == nullptr) return;
    const Range own(count, index_, a_.slices);
    for (int64_t r = own.first; r < own.last; ++r) {
      shared_.row_weight[r] = a_.row_weight[row(chunk, r)];
      shared_.smoothing_share[r] =
          static_cast<Acc>(a_.label_smoothing / static_cast<double>(a_.classes)) * shared_.row_weight[r];
    }
    if (a_.grad_weight == nullptr) return;
    const Range blocks(plan_.blocks, index_, a_.slices);
    for (int64_t block = blocks.first; block < blocks.last; ++block) {
      const int64_t first = block * kBlockRows, rows = smaller(kBlockRows, count - first);
      for (int64_t r = 0; r < rows; ++r) scratch_.gradient_row[r] = first + r;
      if (rows > 0) pack_input(shared_.input + block * plan_.block_words(), chunk, rows);
    }
  }

  // A panel of exponentials.
  void exponentiate(int64_t chunk, int64_t p) {
    const int64_t count = rows_of(chunk), column = p * kPanelColumns<E>;
    const Panel<E> panel = {scratch_.panel, panel_width(p), a_.features};
    pack_transposed_panel(panel, weight(column), a_.classes - column, 0);
    for (int64_t first = 0; first < count; first += kLogitRows) {
      const int64_t rows = smaller(kLogitRows, count - first);
      for (int64_t r = 0; r < rows; ++r) scratch_.rows[r] = a_.input + row(chunk, first + r) * a_.features;
      multiply_panel<E>(scratch_.tile, {shared_.bias + column, 0}, {scratch_.rows, rows}, panel);
      take_targets(chunk, p, first, rows);
      switch (panel.width) {
        case 1:
          keep_exponentials<1>(p, first, rows);
          break;
        case 2:
          keep_exponentials<2>(p, first, rows);
          break;
        case 3:
          keep_exponentials<3>(p, first, rows);
          break;
        default:
          keep_exponentials<4>(p, first, rows);
      }
    }
  }

  // This slice's rows: normalizer and loss, from all panels.
  void normalize(int64_t chunk) {
    const int64_t count = rows_of(chunk), stride = plan_.padded_rows();
    const Range vectors(parts_of(count, kLane), index_, a_.slices);
    for (int64_t first = vectors.first * kLane; first < vectors.last * kLane; first += kLane) {
      Vec<Acc> largest = load(shared_.largest + first), sum = {}, total = {};
      for (int64_t p = 1; p < plan_.panels; ++p)
        largest = larger_lanes<Acc>(largest, load(shared_.largest + p * stride + first));
      for (int64_t p = 0; p < plan_.panels; ++p) {
        const int64_t at = p * stride + first;
        sum += load(shared_.sum + at) * exp(load(shared_.largest + at) - largest);
        if (a_.label_smoothing > 0) total += load(shared_.total + at);
      }
      for (int64_t lane = 0; lane < smaller(kLane, count - first); ++lane) {
        const int64_t r = first + lane;
        const double normalizer = static_cast<double>(largest[lane]) + std::log(static_cast<double>(sum[lane]));
        const double mean = static_cast<double>(total[lane]) / static_cast<double>(a_.classes);
        const double target = (1 - a_.label_smoothing) * static_cast<double>(shared_.target[r]);
        shared_.normalizer[r] = static_cast<Acc>(normalizer);
        a_.loss[row(chunk, r)] =
            static_cast<Acc>(normalizer - target - (a_.label_smoothing > 0 ? a_.label_smoothing * mean : 0));
      }
    }
  }

  // A slab of classes: their rows of grad W and grad b.
  void grad_weight(int64_t chunk, int64_t slab) {
    const int64_t count = rows_of(chunk), columns = slab_columns(slab);
    const PanelSet<E> set = feature_panels(nullptr, 0);
    bool empty = true;
    for (int64_t j = 0; j < kClassesAtATime; ++j) scratch_.bias_sums[j] = 0;
    for (int64_t block = 0; block * kBlockRows < count; ++block) {
      const int64_t first = block * kBlockRows, all = smaller(kBlockRows, count - first);
      const int64_t rows = make_gradient(chunk, slab, first, all);
      if (rows == 0) continue;
      if (a_.grad_bias != nullptr) add_rows(rows, columns);
      if (a_.grad_weight == nullptr) continue;
      Word<E>* input = shared_.input + block * plan_.block_words();
      if (rows < all) pack_input(input = scratch_.input, chunk, rows);
      pack_tiles(scratch_.left, scratch_.rows, rows, columns);
      const int64_t groups = depth_groups<E>(rows);
      for (int64_t j = 0; j < columns; ++j)
        scratch_.left_rows[j] = scratch_.left + ((j / kTileRows) * groups * kTileRows + j % kTileRows) * kGroup<E>;
      const PanelSet<E> right = feature_panels(input, rows);
      for (int64_t p = 0; p < right.count(); ++p) {
        const Panel<E> panel = right.panel(p);
        Acc* sums = panel_sums(set, p);
        multiply_panel<E>(sums, empty ? zeros<E>() : Start<E>{sums, panel.width * kLane},
                          {scratch_.left_rows, columns, true}, panel);
      }
      empty = false;
    }
    if (a_.grad_weight != nullptr) store_weights(chunk == 0, empty, slab);
    if (a_.grad_bias == nullptr) return;
    for (int64_t j = 0; j < columns; ++j) {
      Acc& sum = a_.grad_bias[slab * kClassesAtATime + j];
      sum = (chunk == 0 ? Acc{0} : sum) + scratch_.bias_sums[j];
    }
  }

  // A block of rows of grad x. Its sums stay in L2 (of a few hundred features) while the weights pass.
  void grad_input(int64_t chunk, int64_t block) {
    const int64_t first = block * plan_.input_rows, all = smaller(plan_.input_rows, rows_of(chunk) - first);
    const PanelSet<E> set = feature_panels(nullptr, 0);
    for (Acc* sum = scratch_.grad_input; sum != grad_row(set, set.count(), 0); ++sum) *sum = 0;
    for (int64_t slab = 0; slab < plan_.slabs; ++slab) {
      const PanelSet<E> right = slab_panels(slab);
      const int64_t rows = make_gradient(chunk, slab, first, all);
      for (int64_t p = 0; p < right.count(); ++p) {
        const Panel<E> panel = right.panel(p);
        const int64_t stride = panel.width * kLane;
        if (rows == all) {
          Acc* sums = grad_row(set, p, 0);
          multiply_panel<E>(sums, {sums, stride}, {scratch_.rows, rows}, panel);
          continue;
        }
        // Only some rows: their sums are brought together, so that each goes on as it would among all.
        const int64_t bytes = stride * static_cast<int64_t>(sizeof(Acc));
        for (int64_t r = 0; r < rows; ++r)
          std::memcpy(scratch_.tile + r * stride, grad_row(set, p, scratch_.gradient_row[r] - first), bytes);
        multiply_panel<E>(scratch_.tile, {scratch_.tile, stride}, {scratch_.rows, rows}, panel);
        for (int64_t r = 0; r < rows; ++r)
          std::memcpy(grad_row(set, p, scratch_.gradient_row[r] - first), scratch_.tile + r * stride, bytes);
      }
    }
    for (int64_t r = 0; r < all; ++r)
      for (int64_t p = 0; p < set.count(); ++p)
        store_tile(a_.grad_input + row(chunk, first + r) * a_.features, a_.features, set.column(p), grad_row(set, p, r),
                   1, set.width(p));
  }

 private:
  // From class `first` on.
  DroppedWeight<E> weight(int64_t first) const {
    Weight<E> from = a_.weight;
    if (from.own != nullptr) from.own += first * a_.features;
    if (from.master != nullptr) from.master += first * a_.features;
    return {from, a_.features, {}, scratch_.converted};
  }
  int64_t row(int64_t chunk, int64_t r) const { return a_.row[chunk * plan_.chunk_rows + r]; }
  int64_t rows_of(int64_t chunk) const { return plan_.rows_of(chunk); }
  int64_t slab_columns(int64_t slab) const { return smaller(kClassesAtATime, a_.classes - slab * kClassesAtATime); }
  int panel_width(int64_t p) const {
    return static_cast<int>(smaller(kPanelVectors, column_vectors<E>(a_.classes - p * kPanelColumns<E>)));
  }
  E* kept(int64_t p, int64_t r) const { return shared_.kept + (p * plan_.chunk_rows + r) * kPanelColumns<E>; }

  PanelSet<E> slab_panels(int64_t slab) const {
    return {shared_.weight + slab * plan_.slab_words(), slab_columns(slab), 0, plan_.feature_vectors};
  }
  // Rows beyond the last fill its group with zeros: the depth counts whole groups.
  PanelSet<E> feature_panels(Word<E>* words, int64_t rows) const {
    return {words, depth_groups<E>(rows) * kGroup<E>, 0, plan_.feature_vectors};
  }
  Acc* panel_sums(const PanelSet<E>& set, int64_t p) const {
    return scratch_.sums + set.column(p) * (parts_of(kClassesAtATime, kTileRows) * kTileRows);
  }
  Acc* grad_row(const PanelSet<E>& set, int64_t p, int64_t r) const {
    return scratch_.grad_input + set.column(p) * plan_.input_rows + r * set.width(p) * kLane;
  }

  // Rows gradient_row[0 .. rows) of the chunk as a right operand.
  void pack_input(Word<E>* words, int64_t chunk, int64_t rows) {
    const PanelSet<E> set = feature_panels(words, rows);
    for (int64_t group = 0; group < depth_groups<E>(rows); ++group) {
      const E* from[kGroup<E>];
      for (int64_t i = 0; i < kGroup<E>; ++i) {
        const int64_t r = group * kGroup<E> + i;
        from[i] = r < rows ? a_.input + row(chunk, scratch_.gradient_row[r]) * a_.features : nullptr;
      }
      for (int64_t p = 0; p < set.count(); ++p) {
        const E* at[kGroup<E>];
        for (int64_t i = 0; i < kGroup<E>; ++i) at[i] = from[i] == nullptr ? nullptr : from[i] + set.column(p);
        pack_group(set.panel(p), group, at, a_.features - set.column(p));
      }
    }
  }

  void take_targets(int64_t chunk, int64_t p, int64_t first, int64_t rows) {
    const int64_t columns = panel_width(p) * kLane;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t column = a_.target[row(chunk, first + r)] - p * kPanelColumns<E>;
      if (column >= 0 && column < columns) shared_.target[first + r] = scratch_.tile[r * columns + column];
    }
  }

  template <int Width>
  void keep_exponentials(int64_t p, int64_t first, int64_t rows) {
    const int64_t at = p * plan_.padded_rows() + first;
    for (int64_t r = 0; r < rows; ++r) {
      const Acc* logits = scratch_.tile + r * Width * kLane;
      Vec<Acc> value[Width];
      for (int v = 0; v < Width; ++v) value[v] = load(logits + v * kLane);
      Vec<Acc> largest = value[0], sum = {};
      for (int v = 1; v < Width; ++v) largest = larger_lanes<Acc>(largest, value[v]);
      // A row of minus infinities must not give infinity minus infinity.
      largest = larger_lanes<Acc>(broadcast(std::numeric_limits<Acc>::lowest()), largest_lane<Acc>(largest));
      for (int v = 0; v < Width; ++v) {
        value[v] = exp(value[v] - largest);
        sum += value[v];
      }
      shared_.largest[at + r] = largest[0];
      shared_.sum[at + r] = sum_of_lanes<Acc>(sum)[0];
      if (a_.label_smoothing > 0) {
        Vec<Acc> total = {};
        for (int v = 0; v < Width; ++v)
          total += load(logits + v * kLane, a_.classes - p * kPanelColumns<E> - v * kLane);
        shared_.total[at + r] = sum_of_lanes<Acc>(total)[0];
      }
      if (a_.row_weight == nullptr) continue;
      for (int v = 0; v < Width; ++v) store(kept(p, first + r) + v * kLane, value[v]);
    }
  }

  // grad l of some rows of the chunk and the classes of a slab: rows[i] of row gradient_row[i]. Rows whose gradients
  // are all below the threshold are left out. Returns how many there are.
  int64_t make_gradient(int64_t chunk, int64_t slab, int64_t first, int64_t rows) {
    const int64_t begin = slab * kClassesAtATime, columns = slab_columns(slab);
    for (int64_t r = 0; r < rows; ++r) scratch_.rows[r] = scratch_.gradient + r * kClassesAtATime;
    for (int64_t column = 0; column < columns; column += kPanelColumns<E>) {
      const int64_t p = (begin + column) / kPanelColumns<E>;
      const Acc* largest = shared_.largest + p * plan_.padded_rows() + first;
      for (int64_t r = 0; r < rows; r += kLane)
        store<Acc>(scratch_.factor + r, exp(load(largest + r) - load(shared_.normalizer + first + r)) *
                                            load(shared_.row_weight + first + r));
      const int width = panel_width(p);
      for (int64_t r = 0; r < rows; ++r) {
        const Vec<Acc> factor = broadcast(scratch_.factor[r]), even = broadcast(shared_.smoothing_share[first + r]);
        const E* from = kept(p, first + r);
        E* to = scratch_.gradient + r * kClassesAtATime + column;
        for (int v = 0; v < width; ++v) store(to + v * kLane, load(from + v * kLane) * factor - even);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t target = a_.target[row(chunk, first + r)] - begin;
      if (target < 0 || target >= columns) continue;
      // From the logit itself: what was kept of it is rounded, and the difference may be small.
      const Acc p = std::exp(shared_.target[first + r] - shared_.normalizer[first + r]);
      const Acc value = (p - static_cast<Acc>(1 - a_.label_smoothing)) * shared_.row_weight[first + r] -
                        shared_.smoothing_share[first + r];
      Acc lanes[kLane] = {value};
      store<E>(scratch_.gradient + r * kClassesAtATime + target, load(lanes), 1);
    }
    int64_t left = 0;
    for (int64_t r = 0; r < rows; ++r) {
      if (a_.threshold > 0 && below_threshold(first + r, scratch_.gradient + r * kClassesAtATime, columns)) continue;
      scratch_.rows[left] = scratch_.gradient + r * kClassesAtATime;
      scratch_.gradient_row[left++] = first + r;
    }
    return left;
  }

  bool below_threshold(int64_t r, const E* gradient, int64_t columns) const {
    Vec<Acc> largest = {};
    bool numbers = true;
    for (int64_t j = 0; j < columns; j += kLane) {
      const Vec<Acc> value = load(gradient + j, columns - j);
      largest = larger_lanes<Acc>(largest, larger_lanes<Acc>(value, -value));
      for (int lane = 0; lane < kLane; ++lane) numbers = numbers && value[lane] == value[lane];
    }
    const Acc limit = static_cast<Acc>(a_.threshold) * std::abs(shared_.row_weight[r]);
    return numbers && largest_lane<Acc>(largest)[0] < limit;
  }

  void add_rows(int64_t rows, int64_t columns) {
    for (int64_t j = 0; j < columns; j += kLane) {
      Vec<Acc> sum = load(scratch_.bias_sums + j);
      for (int64_t r = 0; r < rows; ++r) sum += load(scratch_.rows[r] + j);
      store<Acc>(scratch_.bias_sums + j, sum);
    }
  }

  void store_weights(bool first_chunk, bool empty, int64_t slab) {
    if (empty && !first_chunk) return;
    const PanelSet<E> set = feature_panels(nullptr, 0);
    for (int64_t r = 0; r < slab_columns(slab); ++r) {
      Acc* to = a_.grad_weight + (slab * kClassesAtATime + r) * a_.features;
      for (int64_t p = 0; p < set.count(); ++p) {
        for (int v = 0; v < set.width(p); ++v) {
          const int64_t column = set.column(p) + v * kLane, rest = a_.features - column;
          Vec<Acc> sum = {};
          if (!empty) sum = load(panel_sums(set, p) + (r * set.width(p) + v) * kLane);
          if (!first_chunk) sum += load<Acc>(to + column, rest);
          store<Acc>(to + column, sum, rest);
        }
      }
    }
  }

  const LinearCrossEntropy<E>& a_;
  const CrossEntropyPlan<E> plan_;
  const int64_t index_;
  CrossEntropyShared<E> shared_;
  CrossEntropyScratch<E> scratch_;
};

template <typename E>
int64_t scratch(const LinearCrossEntropy<E>& args) {
  return CrossEntropyShared<E>().carve(args, nullptr) + args.slices * CrossEntropyScratch<E>().carve(args, nullptr);
}

template <typename E>
void run(const LinearCrossEntropy<E>& args, Member member) {
  const FlushDenormals flush;
  std::vector<CrossEntropySlice<E>> slices;
  slices.reserve(member.last - member.first);
  for (int64_t index = member.first; index < member.last; ++index) slices.emplace_back(args, index);
  for (CrossEntropySlice<E>& slice : slices) slice.prepare();
  const CrossEntropyPlan<E> plan(args);
  CrossEntropySlice<E>& own = slices.front();
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
    for (CrossEntropySlice<E>& slice : slices) slice.prepare_rows(chunk);
    if (chunk == 0) member.wait();  // the bias is there
    member.share(plan.panels, [&](int64_t panel) { own.exponentiate(chunk, panel); });
    member.wait();
    for (CrossEntropySlice<E>& slice : slices) slice.normalize(chunk);
    member.wait();
    // The pieces of rows are few and, with many classes, large: they come first, so that all end at about the same
    // time.
    const int64_t inputs = args.grad_input != nullptr ? plan.input_blocks(chunk) : 0;
    const int64_t weights = args.grad_weight != nullptr || args.grad_bias != nullptr ? plan.slabs : 0;
    member.share(inputs + weights, [&](int64_t piece) {
      if (piece < inputs)
        own.grad_input(chunk, piece);
      else
        own.grad_weight(chunk, piece - inputs);
    });
    member.wait();  // the next chunk takes this one's memory
  }
}

}  // namespace

extern const LinearCrossEntropyKernels<float> linear_cross_entropy_float;
extern const LinearCrossEntropyKernels<double> linear_cross_entropy_double;
extern const LinearCrossEntropyKernels<Bfloat16> linear_cross_entropy_bfloat16;
const LinearCrossEntropyKernels<float> linear_cross_entropy_float = {scratch<float>, run<float>};
const LinearCrossEntropyKernels<double> linear_cross_entropy_double = {scratch<double>, run<double>};
const LinearCrossEntropyKernels<Bfloat16> linear_cross_entropy_bfloat16 = {scratch<Bfloat16>, run<Bfloat16>};

}  // namespace ulmfit_fast::ULMFIT_ISA
