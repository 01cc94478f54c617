// The LSTM's forward on int8 weights, compiled once per instruction set.
//
//   a_t = float(sum q(x_t) W_ih) s s_x + b + float(sum q(h_{t-1}) W_hh) s s_h, the cell's math in float32
//
// A row of x is quantized by its largest absolute value; h, which lies in [-1, 1], by 1, a first state h0 by its
// largest if that is beyond 1. A row's arithmetic is its own. Slices, chunks and the barrier a step are those of
// lstm_forward_kernel.cpp; sums are exact, and nothing is contracted or approximated, so every instruction set, grid
// and batch gives the same bits. Limit: reading the weights, a quarter of float32's, for few rows; multiply-adds for
// many.
#define ULMFIT_SAME_BITS  // of cell_math.h
#include "lstm_quantized_kernel.h"

#include <vector>

#include "../../common/cell.h"
#include "../gemm/quantized_gemm.h"
#include "cell_math.h"
#include "lstm_steps.h"
#include "pool.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

constexpr float kStateScale = 1.0f / 127.0f;
constexpr int64_t kUnits = kLanes<float>;  // of a panel
constexpr int64_t kPanelColumns = kGates * kUnits;

static inline int64_t panel_count(const LstmSizes& sizes) {
  return (sizes.hidden + kUnits - 1) / kUnits;
}

// One weight's panels.
struct QuantizedPanels {
  int8_t* weights;
  float* scale;
  int32_t* offset;
  int64_t depth;

  void carve(Carver& carver, int64_t count, int64_t of_depth) {
    depth = of_depth;
    weights = carver.take<int8_t>(count * quantized_panel_bytes(depth));
    scale = carver.take<float>(count * kPanelColumns);
    offset = carver.take<int32_t>(count * kPanelColumns);
  }
  int8_t* bytes(int64_t p) const { return weights + p * quantized_panel_bytes(depth); }
  QuantizedPanel panel(int64_t p) const {
    return {bytes(p), scale + p * kPanelColumns, offset + p * kPanelColumns, quantized_words(depth)};
  }
};

struct QuantizedLayer {
  QuantizedPanels input, recurrent;

  int64_t carve(const LstmSizes& sizes, std::byte* at) {
    Carver carver(at);
    input.carve(carver, panel_count(sizes), sizes.input);
    recurrent.carve(carver, panel_count(sizes), sizes.hidden);
    return carver.taken();
  }
};

int64_t packed_bytes(const LstmSizes& sizes) {
  return QuantizedLayer().carve(sizes, nullptr);
}

// Panel `p` of a weight [4 * hidden, depth] with a scale for each row. What lies beyond is zero.
void pack_panel(const QuantizedPanels& to, int64_t p, const int8_t* weight, const float* scale, int64_t hidden) {
  const int64_t words = quantized_words(to.depth);
  std::memset(to.bytes(p), 0, quantized_panel_bytes(to.depth));
  for (int gate = 0; gate < kGates; ++gate) {
    for (int64_t lane = 0; lane < kUnits; ++lane) {
      const int64_t unit = p * kUnits + lane, column = p * kPanelColumns + gate * kUnits + lane;
      to.scale[column] = 0;
      to.offset[column] = 0;
      if (unit >= hidden) continue;
      const int8_t* row = weight + (gate * hidden + unit) * to.depth;
      int32_t sum = 0;
      for (int64_t word = 0; word < words; ++word) {
        int8_t* at = quantized_at(to.bytes(p), words, gate, word) + lane * kWordDepth;
        for (int64_t k = word * kWordDepth; k < smaller((word + 1) * kWordDepth, to.depth); ++k) {
          *at++ = row[k];
          sum += row[k];
        }
      }
      to.scale[column] = scale[gate * hidden + unit];
      to.offset[column] = kQuantizedZero * sum;
    }
  }
}

void pack(const LstmQuantizedPack& args, Member member) {
  QuantizedLayer layer;
  layer.carve(args.sizes, args.packed);
  const int64_t count = panel_count(args.sizes);
  member.share(2 * count, [&](int64_t i) {
    if (i < count)
      pack_panel(layer.input, i, args.weight_ih, args.scale_ih, args.sizes.hidden);
    else
      pack_panel(layer.recurrent, i - count, args.weight_hh, args.scale_hh, args.sizes.hidden);
  });
}

// Used by all slices.
struct QuantizedShared {
  QuantizedLayer layer;
  QuantizedElement *input, *h0, *state;  // [N], [B] and [2, B] quantized rows, state of the step and the one before it
  float *input_scale, *h0_scale;         // [N], [B]

  int64_t carve(const LstmQuantizedForward& args, std::byte* at) {
    const LstmSizes& s = args.sizes;
    layer.carve(s, const_cast<std::byte*>(args.packed));  // only read
    Carver carver(at);
    input = carver.take<QuantizedElement>(s.rows * quantized_row(s.input));
    h0 = carver.take<QuantizedElement>(s.batch * quantized_row(s.hidden));
    state = carver.take<QuantizedElement>(2 * s.batch * quantized_row(s.hidden));
    input_scale = carver.take<float>(s.rows);
    h0_scale = carver.take<float>(s.batch);
    return carver.taken();
  }
};

// A slice's own: what its pieces leave for later ones, whoever works on them.
struct QuantizedOwn {
  int64_t chunk_rows;
  float *bias, *gates;  // [its panels][4 * lanes], [its panels][chunk_rows][4 * lanes]

  int64_t carve(const LstmQuantizedForward& args, std::byte* at) {
    const int64_t panels = most_columns(args.grid, panel_count(args.sizes));
    chunk_rows = most_chunk_rows(args.sizes, args.grid);
    Carver carver(at);
    bias = carver.take<float>(panels * kPanelColumns);
    gates = carver.take<float>(panels * chunk_rows * kPanelColumns);
    return carver.taken();
  }
};

// A thread's: the rows that it multiplies.
struct QuantizedScratch {
  const QuantizedElement** rows;
  float* row_scale;

  int64_t carve(const LstmQuantizedForward& args, std::byte* at) {
    const int64_t count = most_chunk_rows(args.sizes, args.grid);
    Carver carver(at);
    rows = carver.take<const QuantizedElement*>(count);
    row_scale = carver.take<float>(count);
    return carver.taken();
  }
};

class QuantizedSlice {
 public:
  QuantizedSlice(const LstmQuantizedForward& args, int64_t index, int64_t thread)
      : a_(args), s_(args.sizes), slice_(args.grid, index), panels_(slice_.columns(panel_count(s_))) {
    carve(a_.scratch, index, thread);
  }

  // As ForwardSlice::carve.
  int64_t carve(std::byte* at, int64_t index, int64_t thread) {
    const auto from = [&](int64_t offset) { return at == nullptr ? nullptr : at + offset; };
    const int64_t own = shared_.carve(a_, at), own_bytes = own_.carve(a_, nullptr);
    own_.carve(a_, from(own + index * own_bytes));
    const int64_t scratch = own + a_.grid.slices() * own_bytes, bytes = scratch_.carve(a_, nullptr);
    scratch_.carve(a_, from(scratch + thread * bytes));
    return scratch + a_.grid.slices() * bytes;
  }

  void prepare() {
    for (int64_t p = panels_.first; p < panels_.last; ++p) {
      for (int gate = 0; gate < kGates; ++gate)
        store(own_.bias + (p - panels_.first) * kPanelColumns + gate * kUnits,
              load(a_.bias + gate * s_.hidden + p * kUnits, s_.hidden - p * kUnits));
    }
  }

  // Pieces of the rows that are there before the first step.
  int64_t row_pieces() const { return s_.batch + (s_.rows + kRowsOfPiece - 1) / kRowsOfPiece; }
  void quantize(int64_t piece) {
    if (piece < s_.batch) {
      shared_.h0_scale[piece] = quantize_row(shared_.h0 + piece * quantized_row(s_.hidden), a_.h0 + piece * s_.hidden,
                                             s_.hidden, /*least=*/1.0f);
      return;
    }
    const int64_t first = (piece - s_.batch) * kRowsOfPiece;
    for (int64_t row = first; row < smaller(first + kRowsOfPiece, s_.rows); ++row)
      shared_.input_scale[row] =
          quantize_row(shared_.input + row * quantized_row(s_.input), a_.input + row * s_.input, s_.input, 0.0f);
  }

  int64_t panels() const { return panels_.count(); }
  ChunkOfSteps& chunk() { return chunk_; }
  void begin_step(int64_t step) { chunk_.begin_step(step, s_, slice_, own_.chunk_rows); }

  // A piece of the chunk that begins: a = x W_ih^T + b for its panels first .. last.
  void project(int64_t first, int64_t last) {
    int64_t count = 0;
    for (int64_t step = chunk_.begin(); step < chunk_.end(); ++step) {
      const Range rows = slice_.step_rows(s_, step);
      for (int64_t r = rows.first; r < rows.last; ++r, ++count) {
        const int64_t row = s_.offsets[s_.step(step)] + r;
        scratch_.rows[count] = shared_.input + row * quantized_row(s_.input);
        scratch_.row_scale[count] = shared_.input_scale[row];
      }
    }
    for (int64_t p = panels_.first + first; p < panels_.first + last; ++p)
      multiply_quantized({scratch_.rows, scratch_.row_scale, count},
                         {chunk_gates(p), own_.bias + (p - panels_.first) * kPanelColumns, kPanelColumns, 0},
                         shared_.layer.input.panel(p));
  }

  // A piece of a step, panels first .. last.
  void run_step(int64_t step, int64_t first, int64_t last) {
    const Range rows = slice_.step_rows(s_, step);
    const int64_t continuing = continuing_rows(s_, step), ending = first_ending_row(s_, step);
    for (int64_t r = rows.first; r < rows.last; ++r) {
      scratch_.rows[r - rows.first] =
          r < continuing ? state_row(step - 1, r) : shared_.h0 + r * quantized_row(s_.hidden);
      scratch_.row_scale[r - rows.first] = r < continuing ? kStateScale : shared_.h0_scale[r];
    }
    for (int64_t p = panels_.first + first; p < panels_.first + last; ++p) {
      float* gates = chunk_gates(p) + chunk_.row() * kPanelColumns;
      multiply_quantized({scratch_.rows, scratch_.row_scale, rows.count()},
                         {gates, gates, kPanelColumns, kPanelColumns}, shared_.layer.recurrent.panel(p));
      for (int64_t r = 0; r < rows.count(); ++r) activate_gates(gates + r * kPanelColumns);
      for (int64_t r = rows.first; r < rows.last; ++r)
        update_cell(p, step, r, gates + (r - rows.first) * kPanelColumns, r >= ending);
    }
  }

 private:
  static constexpr int64_t kRowsOfPiece = 16;

  float* chunk_gates(int64_t p) const { return own_.gates + (p - panels_.first) * own_.chunk_rows * kPanelColumns; }
  QuantizedElement* state_row(int64_t step, int64_t r) const {
    return shared_.state + (step % 2 * s_.batch + r) * quantized_row(s_.hidden);
  }

  // A row's gates of one vector of units, in place; in a loop of its own as in lstm_forward_kernel.cpp.
  static void activate_gates(float* a) {
    const Gates<Vec<float>> gate =
        activate<Math>(load(a), load(a + kUnits), load(a + 2 * kUnits), load(a + 3 * kUnits));
    store(a, gate.i);
    store(a + kUnits, gate.f);
    store(a + 2 * kUnits, gate.g);
    store(a + 3 * kUnits, gate.o);
  }

  // Row `r` of a step: cell, output and its quantized form, of one vector of units from their activated gates `a`.
  void update_cell(int64_t p, int64_t step, int64_t r, const float* a, bool ending) {
    const int64_t unit = p * kUnits, units = s_.hidden - unit, t = s_.step(step);
    const Gates<Vec<float>> gate = {load(a), load(a + kUnits), load(a + 2 * kUnits), load(a + 3 * kUnits)};
    float* running = a_.c + r * s_.hidden + unit;
    const Vec<float> cell = cell_state(gate, load(running, units)), h = gate.o * Math::tanh(cell);
    store(running, cell, units);
    const int64_t first_row = a_.keep_output ? s_.offsets[t] : step % 2 * s_.batch;
    store(a_.output + (first_row + r) * s_.hidden + unit, h, units);
    store_quantized(state_row(step, r) + unit, h * 127.0f, units);
    if (ending) store(a_.h_n + r * s_.hidden + unit, h, units);
    if (a_.pool.total != nullptr) add_to_pool(a_.pool, r, t, s_.hidden, unit, h);
  }

  const LstmQuantizedForward& a_;
  const LstmSizes& s_;
  const Slice slice_;
  const Range panels_;
  QuantizedShared shared_;
  QuantizedOwn own_;
  QuantizedScratch scratch_;
  ChunkOfSteps chunk_;
};

int64_t scratch(const LstmQuantizedForward& args) {
  return QuantizedSlice(args, 0, 0).carve(nullptr, 0, 0);
}

void forward(const LstmQuantizedForward& args, Member member) {
  const FlushDenormals flush;
  std::vector<QuantizedSlice> slices;
  slices.reserve(args.grid.slices());
  for (int64_t index = 0; index < args.grid.slices(); ++index) slices.emplace_back(args, index, member.first);
  for (int64_t index = member.first; index < member.last; ++index) slices[index].prepare();
  QuantizedSlice& any = slices[member.first];
  member.share(any.row_pieces(), [&](int64_t piece) { any.quantize(piece); });
  for (int64_t step = 0; step < args.sizes.steps; ++step) {
    bool begins = false;
    for (QuantizedSlice& slice : slices) {
      slice.begin_step(step);
      begins = begins || slice.chunk().begins(step);
    }
    member.wait();  // the step before is complete, or what precedes the first
    if (begins) {
      member.steal([&](int64_t slice) { return slices[slice].chunk().begins(step) ? slices[slice].panels() : 0; },
                   [&](int64_t slice, int64_t first, int64_t last) { slices[slice].project(first, last); });
      member.wait();
    }
    member.steal([&](int64_t slice) { return slices[slice].panels(); },
                 [&](int64_t slice, int64_t first, int64_t last) { slices[slice].run_step(step, first, last); });
    for (QuantizedSlice& slice : slices) slice.chunk().end_step();
  }
}

}  // namespace

extern const LstmQuantizedKernels lstm_quantized;
const LstmQuantizedKernels lstm_quantized = {kUnits, kQuantizedRows, packed_bytes, pack, scratch, forward};

}  // namespace ulmfit_fast::ULMFIT_ISA
