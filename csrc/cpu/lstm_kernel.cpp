// The LSTM's forward on CPU, compiled once per instruction set; backward is in lstm_kernel_backward.cpp.
//
//   a_t = x_t W_ih^T + b + h_{t-1} (M o W_hh)^T / (1-p),  c_t = s(f) c_{t-1} + s(i) tanh(g),  h_t = s(o) tanh(c_t)
//
// One thread owns a range of hidden units for the whole sequence: it packs their weights, projects the inputs onto
// them (no barrier needed) and steps the recurrence with one barrier a step, two with a projection. No row is ever
// padded. Limit: FMA throughput for many rows, the weights' way from L3 for few (shares not measured yet). Accumulates
// in T; no reduction crosses threads, so the result depends neither on the thread count nor on the other rows.
#include "lstm_kernel.h"

#include "../common/cell.h"
#include "lstm_steps.h"
#include "panel_gemm.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

constexpr int64_t kProjectionRows = 96;  // rows of input against one panel at a time: the tile stays in L1 and L2

template <typename T>
struct ForwardScratch {
  T *packed_ih, *packed_hh, *packed_hr;  // this thread's panels
  T* tile;                               // [max(B, kProjectionRows)][4 * lanes]
  const T** row_pointers;                // as many
  T* row;                                // a weight row after DropConnect
  uint8_t* keep;

  // Elements of T; with `at` null only counts.
  int64_t carve(const LstmSizes& sizes, int64_t gate_count, int64_t output_count, T* at) {
    Carver<T> carver(at);
    const int64_t rows = larger(sizes.batch, kProjectionRows);
    packed_ih = carver.take(gate_count * sizes.input * kPanelColumns<T>);
    packed_hh = carver.take(gate_count * sizes.output * kPanelColumns<T>);
    packed_hr = carver.take(sizes.projected ? output_count * sizes.hidden * kPanelColumns<T> : 0);
    tile = carver.take(rows * kPanelColumns<T>);
    row_pointers = reinterpret_cast<const T**>(carver.take(rows * sizeof(T*) / sizeof(T)));
    row = carver.take(sizes.output);
    keep = reinterpret_cast<uint8_t*>(carver.take(sizes.output));
    return carver.taken();
  }
};

template <typename T>
class ForwardPass {
 public:
  ForwardPass(const LstmForward<T>& args, Member member)
      : a_(args),
        s_(args.sizes),
        member_(member),
        gate_(member, gate_panels<T>(s_.hidden)),
        output_(member, plain_panels<T>(s_.output)) {
    scratch_.carve(s_, gate_.count(), output_.count(), member.scratch(a_.scratch, a_.scratch_stride));
  }

  void run() {
    pack();
    for (int64_t begin = 0; begin < s_.steps;) {
      const int64_t end = chunk_end(begin);
      project_inputs(begin, end);
      for (int64_t step = begin; step < end; ++step) {
        if (step > 0) member_.wait();  // the step before is complete
        run_step(step);
      }
      begin = end;
    }
  }

 private:
  void pack() {
    const DropConnect none;
    const DroppedWeight<T> ih{a_.weight_ih, s_.input, none, nullptr, nullptr};
    const DroppedWeight<T> hh{a_.weight_hh, s_.output, a_.dropconnect, scratch_.row, scratch_.keep};
    for (int64_t panel = gate_.first; panel < gate_.last; ++panel) {
      pack_gate_panel(packed(scratch_.packed_ih, panel, s_.input), ih, s_.hidden, panel);
      pack_gate_panel(packed(scratch_.packed_hh, panel, s_.output), hh, s_.hidden, panel);
    }
    for (int64_t panel = output_.first; s_.projected && panel < output_.last; ++panel)
      pack_transposed_panel(packed_hr(panel), a_.weight_hr, s_.output, s_.hidden, panel);
  }

  T* packed(T* base, int64_t panel, int64_t depth) const {
    return base + (panel - gate_.first) * depth * kPanelColumns<T>;
  }

  T* packed_hr(int64_t panel) const {
    return scratch_.packed_hr + (panel - output_.first) * s_.hidden * kPanelColumns<T>;
  }

  // Steps [begin, end) have at most chunk_rows rows together, one step at least.
  int64_t chunk_end(int64_t begin) const {
    int64_t end = begin, rows = 0;
    while (end < s_.steps && (end == begin || rows + s_.batch_sizes[s_.step(end)] <= a_.chunk_rows))
      rows += s_.batch_sizes[s_.step(end++)];
    return end;
  }

  // a = x W_ih^T + b for the rows of steps [begin, end), this thread's units.
  void project_inputs(int64_t begin, int64_t end) {
    const int64_t low = s_.reverse ? s_.step(end - 1) : begin, high = s_.reverse ? s_.step(begin) : end - 1;
    const int64_t first_row = s_.offsets[low], last_row = s_.offsets[high] + s_.batch_sizes[high];
    gates_ = a_.save ? a_.gates : a_.gates - first_row * 4 * s_.hidden;
    for (int64_t panel = gate_.first; panel < gate_.last; ++panel) {
      for (int64_t row = first_row; row < last_row; row += kProjectionRows) {
        const int64_t count = smaller(kProjectionRows, last_row - row);
        for (int64_t r = 0; r < count; ++r) scratch_.row_pointers[r] = a_.input + (row + r) * s_.input;
        multiply_panel(scratch_.tile, scratch_.row_pointers, count, packed(scratch_.packed_ih, panel, s_.input),
                       s_.input);
        const int64_t unit = panel * kLanes<T>, units = smaller(kLanes<T>, s_.hidden - unit);
        for (int gate = 0; gate < 4; ++gate) {
          const Vec<T> bias = load(a_.bias + gate * s_.hidden + unit, units);
          for (int64_t r = 0; r < count; ++r) store(gate_row(row + r, gate) + unit, tile(r, gate) + bias, units);
        }
      }
    }
  }

  void run_step(int64_t step) {
    const int64_t t = s_.step(step), rows = s_.batch_sizes[t], first_row = s_.offsets[t];
    for (int64_t r = 0; r < rows; ++r)
      scratch_.row_pointers[r] = previous_row<const T>(s_, step, r, a_.output, a_.h0, s_.output);
    for (int64_t panel = gate_.first; panel < gate_.last; ++panel) {
      multiply_panel(scratch_.tile, scratch_.row_pointers, rows, packed(scratch_.packed_hh, panel, s_.output),
                     s_.output);
      for (int64_t r = 0; r < rows; ++r) update_cell(panel, first_row + r, r);
    }
    if (!s_.projected) return;
    member_.wait();  // every unit's o tanh(c) is there
    for (int64_t r = 0; r < rows; ++r) scratch_.row_pointers[r] = a_.cell_output + r * s_.hidden;
    for (int64_t panel = output_.first; panel < output_.last; ++panel) {
      multiply_panel(scratch_.tile, scratch_.row_pointers, rows, packed_hr(panel), s_.hidden);
      for (int64_t r = 0; r < rows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          const int64_t column = (panel * kVectors + v) * kLanes<T>;
          if (column < s_.output)
            store(a_.output + (first_row + r) * s_.output + column, rounded(tile(r, v)), s_.output - column);
        }
      }
    }
  }

  // Row `row` of the packed batch, row `r` of the tile: gates, cell, output for one vector of units.
  void update_cell(int64_t panel, int64_t row, int64_t r) {
    const int64_t unit = panel * kLanes<T>, units = smaller(kLanes<T>, s_.hidden - unit);
    const auto pre_activation = [&](int gate) { return load(gate_row(row, gate) + unit, units) + tile(r, gate); };
    const Gates<Vec<T>> gate =
        activate<Math>(pre_activation(0), pre_activation(1), pre_activation(2), pre_activation(3));
    T* running = a_.c + r * s_.hidden + unit;
    const Vec<T> cell = cell_state(gate, load(running, units));
    const Vec<T> output = gate.o * Math::tanh(cell);
    store(running, cell, units);
    if (s_.projected)
      store(a_.cell_output + r * s_.hidden + unit, rounded(output), units);
    else
      store(a_.output + row * s_.output + unit, rounded(output), units);
    if (!a_.save) return;
    store(gate_row(row, 0) + unit, gate.i, units);
    store(gate_row(row, 1) + unit, gate.f, units);
    store(gate_row(row, 2) + unit, gate.g, units);
    store(gate_row(row, 3) + unit, gate.o, units);
    store(a_.cells + row * s_.hidden + unit, cell, units);
  }

  Vec<T> tile(int64_t r, int64_t v) const { return load(scratch_.tile + (r * kVectors + v) * kLanes<T>); }
  T* gate_row(int64_t row, int gate) const { return gates_ + (row * 4 + gate) * s_.hidden; }
  Vec<T> rounded(Vec<T> value) const { return a_.round_state ? round_to_bfloat16(value) : value; }

  const LstmForward<T>& a_;
  const LstmSizes& s_;
  Member member_;
  const PanelRange gate_, output_;  // this thread's hidden units, and its columns of h under a projection
  ForwardScratch<T> scratch_;
  T* gates_ = nullptr;  // such that row n of the packed batch is at n * 4H
};

template <typename T>
int64_t forward_scratch(const LstmSizes& sizes, int64_t slices) {
  return ForwardScratch<T>().carve(sizes, share(gate_panels<T>(sizes.hidden), slices),
                                   share(plain_panels<T>(sizes.output), slices), nullptr);
}

template <typename T>
void forward(const LstmForward<T>& args, Member member) {
  const FlushDenormals flush;
  ForwardPass<T>(args, member).run();
}

}  // namespace

int64_t backward_scratch_float(const LstmSizes&, int64_t slices);
int64_t backward_scratch_double(const LstmSizes&, int64_t slices);
void backward_float(const LstmBackward<float>&, Member);
void backward_double(const LstmBackward<double>&, Member);

extern const LstmKernels<float> lstm_float;
extern const LstmKernels<double> lstm_double;
const LstmKernels<float> lstm_float = {kLanes<float>, forward_scratch<float>, backward_scratch_float, forward<float>,
                                       backward_float};
const LstmKernels<double> lstm_double = {kLanes<double>, forward_scratch<double>, backward_scratch_double,
                                         forward<double>, backward_double};

}  // namespace ulmfit_fast::ULMFIT_ISA
