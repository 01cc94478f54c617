// The LSTM's backward on CPU, compiled once per instruction set.
//
//   grad h_t = grad_output_t + grad a_{t+1} (M o W_hh) / (1-p);  grad a_t from it by the cell's derivatives
//
// The forward's steps in the opposite order. One thread owns a range of columns of h (hidden units), packs their part
// of W_hh with the same mask bits, and meets the others once a step (twice with a projection). What remains, grad_input
// and the weights' gradients, are large matrix products of grad_gates, left to the caller. Limit: FMA throughput; W_hh
// is read once a step, a slab of 512 rows of it at a time against all rows of the batch. Deterministic: no reduction
// crosses threads.
#include "../common/cell.h"
#include "lstm_steps.h"
#include "panel_gemm.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

template <typename T>
struct BackwardScratch {
  T *packed_hh, *packed_hr;  // this thread's panels: [4H] deep over h's columns, [P] deep over the units
  T* tile;                   // [B][4 * lanes]
  const T** row_pointers;    // [B]
  T* row;                    // a weight row after DropConnect
  uint8_t* keep;

  int64_t carve(const LstmSizes& sizes, int64_t output_count, int64_t hidden_count, T* at) {
    Carver<T> carver(at);
    packed_hh = carver.take(output_count * 4 * sizes.hidden * kPanelColumns<T>);
    packed_hr = carver.take(sizes.projected ? hidden_count * sizes.output * kPanelColumns<T> : 0);
    tile = carver.take(sizes.batch * kPanelColumns<T>);
    row_pointers = reinterpret_cast<const T**>(carver.take(sizes.batch * sizeof(T*) / sizeof(T)));
    row = carver.take(larger(sizes.output, sizes.hidden));
    keep = reinterpret_cast<uint8_t*>(carver.take(larger(sizes.output, sizes.hidden)));
    return carver.taken();
  }
};

template <typename T>
class BackwardPass {
 public:
  BackwardPass(const LstmBackward<T>& args, Member member)
      : a_(args),
        s_(args.sizes),
        member_(member),
        output_(member, plain_panels<T>(s_.output)),
        hidden_(member, plain_panels<T>(s_.hidden)) {
    scratch_.carve(s_, output_.count(), hidden_.count(), member.scratch(a_.scratch, a_.scratch_stride));
  }

  void run() {
    pack();
    for (int64_t step = s_.steps - 1; step >= 0; --step) {
      run_step(step);
      member_.wait();  // every unit's grad_gates of this step are there
    }
    finish_h0();
  }

 private:
  void pack() {
    const DroppedWeight<T> hh{a_.weight_hh, s_.output, a_.dropconnect, scratch_.row, scratch_.keep};
    pack_plain_panels(scratch_.packed_hh, hh, 4 * s_.hidden, output_.first, output_.last);
    if (!s_.projected) return;
    const DroppedWeight<T> hr{a_.weight_hr, s_.hidden, DropConnect(), nullptr, nullptr};
    pack_plain_panels(scratch_.packed_hr, hr, s_.output, hidden_.first, hidden_.last);
  }

  void run_step(int64_t step) {
    const int64_t t = s_.step(step), rows = s_.batch_sizes[t], first_row = s_.offsets[t];
    const int64_t continued = step + 1 < s_.steps ? continuing_rows(s_, step + 1) : 0;  // rows the next step also has
    for (int64_t r = 0; r < continued; ++r)
      scratch_.row_pointers[r] = a_.grad_gates + (s_.offsets[s_.step(step + 1)] + r) * 4 * s_.hidden;
    for (int64_t panel = output_.first; panel < output_.last; ++panel) {
      multiply_panel(scratch_.tile, scratch_.row_pointers, continued, packed_hh(panel), 4 * s_.hidden);
      for (int64_t r = 0; r < rows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          const int64_t column = (panel * kVectors + v) * kLanes<T>;
          if (column >= s_.output) break;
          const Vec<T> grad = grad_of_h(first_row + r, r, v, column, r < continued);
          if (s_.projected)
            store(a_.grad_h + (first_row + r) * s_.output + column, grad, s_.output - column);
          else
            update_cell(step, first_row + r, r, column, grad);
        }
      }
    }
    if (s_.projected) project_back(step, first_row, rows);
  }

  // All that flows into h of this row: from the outside, and from the next step or the final state.
  Vec<T> grad_of_h(int64_t row, int64_t r, int v, int64_t column, bool continued) const {
    const int64_t count = s_.output - column;
    Vec<T> grad = {};
    if (a_.grad_output != nullptr) grad = load(a_.grad_output + row * s_.output + column, count);
    if (continued) return grad + tile(r, v);
    if (a_.grad_h_n != nullptr) grad += load(a_.grad_h_n + r * s_.output + column, count);
    return grad;
  }

  // grad (o tanh(c)) = grad_h W_hr, then the cell.
  void project_back(int64_t step, int64_t first_row, int64_t rows) {
    member_.wait();  // every column of grad_h is there
    for (int64_t r = 0; r < rows; ++r) scratch_.row_pointers[r] = a_.grad_h + (first_row + r) * s_.output;
    for (int64_t panel = hidden_.first; panel < hidden_.last; ++panel) {
      const T* packed = scratch_.packed_hr + (panel - hidden_.first) * s_.output * kPanelColumns<T>;
      multiply_panel(scratch_.tile, scratch_.row_pointers, rows, packed, s_.output);
      for (int64_t r = 0; r < rows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          const int64_t unit = (panel * kVectors + v) * kLanes<T>;
          if (unit < s_.hidden) update_cell(step, first_row + r, r, unit, tile(r, v));
        }
      }
    }
  }

  void update_cell(int64_t step, int64_t row, int64_t r, int64_t unit, Vec<T> grad_output) {
    const int64_t units = s_.hidden - unit;
    const T* saved = a_.gates + row * 4 * s_.hidden + unit;
    const Gates<Vec<T>> gate = {load(saved, units), load(saved + s_.hidden, units), load(saved + 2 * s_.hidden, units),
                                load(saved + 3 * s_.hidden, units)};
    const Vec<T> cell = load(a_.cells + row * s_.hidden + unit, units);
    const T* previous = previous_row<const T>(s_, step, r, a_.cells, a_.c0, s_.hidden) + unit;
    T* running = a_.grad_c + r * s_.hidden + unit;
    const CellGradient<Vec<T>> grad =
        cell_backward<Math>(gate, cell, load(previous, units), grad_output, load(running, units));
    store(running, grad.cell_previous, units);
    T* out = a_.grad_gates + row * 4 * s_.hidden + unit;
    store(out, grad.pre_activation.i, units);
    store(out + s_.hidden, grad.pre_activation.f, units);
    store(out + 2 * s_.hidden, grad.pre_activation.g, units);
    store(out + 3 * s_.hidden, grad.pre_activation.o, units);
  }

  // grad_h0 from each row's first step, which is not the same step for all rows in the reverse direction.
  void finish_h0() {
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = s_.step(step);
      for (int64_t r = continuing_rows(s_, step); r < s_.batch_sizes[t]; ++r)
        scratch_.row_pointers[r] = a_.grad_gates + (s_.offsets[t] + r) * 4 * s_.hidden;
    }
    for (int64_t panel = output_.first; panel < output_.last; ++panel) {
      multiply_panel(scratch_.tile, scratch_.row_pointers, s_.batch, packed_hh(panel), 4 * s_.hidden);
      for (int64_t r = 0; r < s_.batch; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          const int64_t column = (panel * kVectors + v) * kLanes<T>;
          if (column < s_.output) store(a_.grad_h0 + r * s_.output + column, tile(r, v), s_.output - column);
        }
      }
    }
  }

  const T* packed_hh(int64_t panel) const {
    return scratch_.packed_hh + (panel - output_.first) * 4 * s_.hidden * kPanelColumns<T>;
  }
  Vec<T> tile(int64_t r, int v) const { return load(scratch_.tile + (r * kVectors + v) * kLanes<T>); }

  const LstmBackward<T>& a_;
  const LstmSizes& s_;
  Member member_;
  const PanelRange output_, hidden_;  // this thread's columns of h, and its units when they differ
  BackwardScratch<T> scratch_;
};

template <typename T>
int64_t backward_scratch(const LstmSizes& sizes, int64_t slices) {
  return BackwardScratch<T>().carve(sizes, share(plain_panels<T>(sizes.output), slices),
                                    share(plain_panels<T>(sizes.hidden), slices), nullptr);
}

template <typename T>
void backward(const LstmBackward<T>& args, Member member) {
  const FlushDenormals flush;
  BackwardPass<T>(args, member).run();
}

}  // namespace

// Entry points for the table in lstm_kernel.cpp.
int64_t backward_scratch_float(const LstmSizes& sizes, int64_t slices) {
  return backward_scratch<float>(sizes, slices);
}
int64_t backward_scratch_double(const LstmSizes& sizes, int64_t slices) {
  return backward_scratch<double>(sizes, slices);
}
void backward_float(const LstmBackward<float>& args, Member member) {
  backward<float>(args, member);
}
void backward_double(const LstmBackward<double>& args, Member member) {
  backward<double>(args, member);
}

}  // namespace ulmfit_fast::ULMFIT_ISA
