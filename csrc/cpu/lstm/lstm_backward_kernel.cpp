// The LSTM's backward on CPU, compiled once per instruction set.
//
//   grad h_t = grad_output_t + grad a_{t+1} (M o W_hh) / (1-p);  grad a_t from it by the cell's derivatives
//   grad x = grad a W_ih;  grad W_ih = grad a^T x;  grad W_hh = (grad a^T h_{t-1}) o M / (1-p);  grad b = sum grad a
//
// First the forward's steps in the opposite order: a slice is some columns of h (hidden units), whose part of W_hh its
// owner packs with the same mask bits; pieces of slices go to whoever is free, and all meet once a step (twice with a
// projection). Then the large products over all rows at once, in the same parallel region. Limit: FMA throughput
// (shares: benchmarks/results). Deterministic: no reduction crosses threads.
#include <vector>

#include "../../common/cell.h"
#include "cell_math.h"
#include "lstm_backward_memory.h"
#include "pool.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

template <typename E>
class BackwardSlice {
  using Acc = Accumulator<E>;

 public:
  // A slice that works in a thread's memory; the thread is known by the first slice that it owns.
  BackwardSlice(const LstmBackward<E>& args, int64_t index, int64_t thread)
      : a_(args), s_(args.sizes), slice_(args.grid, index) {
    std::byte* own = a_.scratch + shared_.carve(s_, a_.dropconnect.enabled(), a_.scratch);
    own += thread * scratch_.carve(s_, a_.grid, nullptr);
    scratch_.carve(s_, a_.grid, own);
  }

  // Pieces of the mask of W_hh, before it is packed.
  int64_t mask_pieces() const { return recurrent_mask_pieces(s_, a_.dropconnect); }
  void draw_mask(int64_t piece) { MaskBits::draw(shared_.mask, a_.dropconnect, recurrent_elements(s_), piece); }

  void pack() {
    const PanelSet<E> output = output_panels();
    const Range packing = slice_.packing(0, output.count());
    pack_panels(output, packing.first, packing.last, {a_.weight_hh, s_.output, mask(), scratch_.dropped});
    if (!s_.projected) return;
    const PanelSet<E> hidden = hidden_panels();
    const Range hidden_packing = slice_.packing(0, hidden.count());
    pack_panels(hidden, hidden_packing.first, hidden_packing.last, {{a_.weight_hr, nullptr}, s_.hidden, {}, nullptr});
  }

  int64_t panels() const { return output_panels().count(); }

  // A piece of a step, panels first .. last: grad h and, without a projection, grad a.
  void run_step(int64_t step, int64_t first, int64_t last) {
    const int64_t t = s_.step(step), first_row = s_.offsets[t];
    const Range rows = slice_.rows(s_.batch_sizes[t]);
    // Rows that the next step also has.
    const int64_t continued = first_ending_row(s_, step);
    const int64_t count = larger(0, smaller(continued, rows.last) - rows.first);
    for (int64_t r = 0; r < count; ++r)
      scratch_.rows[r] = shared_.grad_gates + (s_.offsets[s_.step(step + 1)] + rows.first + r) * 4 * s_.hidden;
    const PanelSet<E> set = output_panels();
    for (int64_t p = first; p < last; ++p) {
      const Panel<E> panel = set.panel(p);
      Prefetch prefetch = {scratch_.lines, scratch_.line_count};
      for (int64_t r = rows.first; r < smaller(rows.last, rows.first + kPrefetchRows); ++r) {
        const int64_t column = set.column(p), columns = smaller(panel.width * kLanes<E>, s_.output - column);
        if (a_.grad_output != nullptr)
          prefetch.add(a_.grad_output + stored(first_row + r) * s_.output + column, columns);
        if (!s_.projected) prefetch_cell(prefetch, step, first_row + r, r, column, columns);
      }
      multiply_panel<E>(scratch_.tile, zeros<E>(), {scratch_.rows, count}, panel, prefetch);
      for (int64_t r = rows.first; r < rows.last; ++r) {
        const int64_t tile_row = r - rows.first;
        prefetch.to_l1(tile_row + 1, smaller(rows.count(), kPrefetchRows));
        for (int v = 0; v < panel.width; ++v) {
          const int64_t column = set.column(p) + v * kLanes<E>;
          const Acc* tile = scratch_.tile + (tile_row * panel.width + v) * kLanes<E>;
          const Vec<E> grad = grad_of_h(t, r, column, tile_row < count ? tile : nullptr);
          if (s_.projected)
            store(a_.grad_h + stored(first_row + r) * s_.output + column, grad, s_.output - column);
          else
            update_cell(step, first_row + r, r, column, grad);
        }
      }
    }
  }

  // grad (o tanh(c)) = grad_h W_hr, when every column of grad_h is there; then the cell.
  void project_step(int64_t step) {
    const int64_t t = s_.step(step), first_row = s_.offsets[t];
    const Range rows = slice_.rows(s_.batch_sizes[t]);
    for (int64_t r = rows.first; r < rows.last; ++r)
      scratch_.rows[r - rows.first] = a_.grad_h + stored(first_row + r) * s_.output;
    const PanelSet<E> set = hidden_panels();
    for (int64_t p = 0; p < set.count(); ++p) {
      const Panel<E> panel = set.panel(p);
      Prefetch prefetch = {scratch_.lines, scratch_.line_count};
      for (int64_t r = rows.first; r < smaller(rows.last, rows.first + kPrefetchRows); ++r)
        prefetch_cell(prefetch, step, first_row + r, r, set.column(p),
                      smaller(panel.width * kLanes<E>, s_.hidden - set.column(p)));
      multiply_panel<E>(scratch_.tile, zeros<E>(), {scratch_.rows, rows.count()}, panel, prefetch);
      for (int64_t r = rows.first; r < rows.last; ++r) {
        for (int v = 0; v < panel.width; ++v) {
          const Acc* tile = scratch_.tile + ((r - rows.first) * panel.width + v) * kLanes<E>;
          update_cell(step, first_row + r, r, set.column(p) + v * kLanes<E>, load(tile));
        }
      }
    }
  }

  // grad_h0 from each row's first step, which is not the same step for all rows in the reverse direction.
  void finish_h0() {
    const Range rows = slice_.rows(s_.batch);
    for (int64_t step = 0; step < s_.steps; ++step) {
      const int64_t t = s_.step(step), begin = larger(continuing_rows(s_, step), rows.first);
      for (int64_t r = begin; r < smaller(s_.batch_sizes[t], rows.last); ++r)
        scratch_.rows[r - rows.first] = shared_.grad_gates + (s_.offsets[t] + r) * 4 * s_.hidden;
    }
    const PanelSet<E> set = output_panels();
    for (int64_t p = 0; p < set.count(); ++p) {
      const Panel<E> panel = set.panel(p);
      multiply_panel<E>(scratch_.tile, zeros<E>(), {scratch_.rows, rows.count()}, panel);
      store_tile(a_.grad_h0 + rows.first * s_.output, s_.output, set.column(p), scratch_.tile, rows.count(),
                 panel.width);
    }
  }

  void pack_input_weights() {
    const PanelSet<E> set = input_panels();
    const Range packing(set.count(), slice_.index, a_.grid.slices());
    pack_panels(set, packing.first, packing.last, {a_.weight_ih, s_.input, {}, scratch_.dropped});
  }

  // Pieces of work: blocks of rows of grad x = grad a W_ih.
  int64_t input_rows() const {
    const int64_t tiles = (s_.rows + kTileRows - 1) / kTileRows;
    return piece_size(tiles, a_.grid.slices(), kLeastInputTiles, kMostInputTiles, 4) * kTileRows;
  }
  int64_t input_blocks() const { return (s_.rows + input_rows() - 1) / input_rows(); }
  void grad_input(int64_t block) {
    const int64_t row = block * input_rows(), count = smaller(input_rows(), s_.rows - row);
    const PanelSet<E> set = input_panels();
    for (int64_t r = 0; r < count; ++r) scratch_.rows[r] = shared_.grad_gates + (row + r) * 4 * s_.hidden;
    for (int64_t p = 0; p < set.count(); ++p) {
      const Panel<E> panel = set.panel(p);
      multiply_panel<E>(scratch_.tile, zeros<E>(), {scratch_.rows, count}, panel);
      for (int64_t r = 0; r < count; ++r)
        store_tile(a_.grad_input + stored(row + r) * s_.input, s_.input, set.column(p),
                   scratch_.tile + r * panel.width * kLanes<E>, 1, panel.width);
    }
  }

  // The products below read x and, for the recurrent weight, each row's h one step of computation earlier. Slices list
  // the rows of their share of the steps.
  void list_input_rows() {
    const Range rows(s_.rows, slice_.index, a_.grid.slices());
    for (int64_t n = rows.first; n < rows.last; ++n) shared_.product.right_rows[n] = a_.input + stored(n) * s_.input;
  }
  void list_previous_rows() {
    const Range steps(s_.steps, slice_.index, a_.grid.slices());
    for (int64_t step = steps.first; step < steps.last; ++step) {
      const int64_t t = s_.step(step);
      for (int64_t r = 0; r < s_.batch_sizes[t]; ++r)
        shared_.product.right_rows[s_.offsets[t] + r] = previous_row(step, r, a_.output, a_.h0, s_.output);
    }
  }

  GradientProduct<E> input_product() const { return product(s_.input, a_.grad_weight_ih, a_.grad_bias, MaskBits()); }
  GradientProduct<E> recurrent_product() const {
    return product(s_.output, a_.grad_weight_hh, a_.grad_weight_ih ? WeightGradient<E>() : a_.grad_bias, mask());
  }

  // The bias's gradient when no weight's is wanted.
  void grad_bias() const {
    const Range units(4 * s_.hidden, slice_.index, a_.grid.slices());
    for (int64_t j = units.first; j < units.last; j += kLanes<E>) {
      Vec<E> sum = {};
      for (int64_t n = 0; n < s_.rows; ++n) sum += load(shared_.grad_gates + n * 4 * s_.hidden + j, units.last - j);
      Acc lanes[kLanes<E>];
      store<Acc>(lanes, sum);
      copy_sums(a_.grad_bias, j, lanes, smaller(kLanes<E>, units.last - j));
    }
  }

 private:
  MaskBits mask() const { return recurrent_mask(shared_.mask, a_.dropconnect); }
  PanelSet<E> output_panels() const {
    const Range columns = slice_.columns(column_vectors<E>(s_.output));
    return {shared_.packed_hh, 4 * s_.hidden, columns.first, columns.last};
  }
  PanelSet<E> hidden_panels() const {
    const Range columns = slice_.columns(column_vectors<E>(s_.hidden));
    return {shared_.packed_hr, s_.output, columns.first, columns.last};
  }
  PanelSet<E> input_panels() const { return {shared_.packed_ih, 4 * s_.hidden, 0, column_vectors<E>(s_.input)}; }

  // Where row `row` of the batch stands in input, output, gates, cells and their gradients.
  int64_t stored(int64_t row) const { return a_.storage[row]; }

  // Row `r`'s values one step of computation before `step`: in `states` or, at its start, in `initial` [B, width].
  template <typename T>
  const T* previous_row(int64_t step, int64_t r, const T* states, const T* initial, int64_t width) const {
    if (r < continuing_rows(s_, step)) return states + stored(s_.offsets[s_.step(step - 1)] + r) * width;
    return initial + r * width;
  }

  // All that flows into h of this row: from the outside, from the pooled state, and from the next step (`tile`) or, at
  // its end, grad_h_n.
  Vec<E> grad_of_h(int64_t t, int64_t r, int64_t column, const Acc* tile) const {
    const int64_t count = s_.output - column;
    Vec<E> grad = {};
    if (a_.grad_output != nullptr) grad = load(a_.grad_output + stored(s_.offsets[t] + r) * s_.output + column, count);
    if (a_.pool.argmax != nullptr) grad += grad_of_pooled(a_.pool, r, t, s_.output, column);
    if (tile != nullptr) return grad + load(tile);
    if (a_.grad_h_n != nullptr) grad += load(a_.grad_h_n + r * s_.output + column, count);
    return grad;
  }

  // What update_cell touches.
  void prefetch_cell(Prefetch& prefetch, int64_t step, int64_t row, int64_t r, int64_t unit, int64_t units) const {
    for (int gate = 0; gate < 4; ++gate) {
      prefetch.add(a_.gates + (stored(row) * 4 + gate) * s_.hidden + unit, units);
      prefetch.add(shared_.grad_gates + (row * 4 + gate) * s_.hidden + unit, units);
    }
    prefetch.add(a_.cells + stored(row) * s_.hidden + unit, units);
    prefetch.add(previous_row(step, r, a_.cells, a_.c0, s_.hidden) + unit, units);
    prefetch.add(a_.grad_c + r * s_.hidden + unit, units);
  }

  void update_cell(int64_t step, int64_t row, int64_t r, int64_t unit, Vec<E> grad_output) {
    const int64_t units = s_.hidden - unit;
    const E* saved = a_.gates + stored(row) * 4 * s_.hidden + unit;
    const Gates<Vec<E>> gate = {load(saved, units), load(saved + s_.hidden, units), load(saved + 2 * s_.hidden, units),
                                load(saved + 3 * s_.hidden, units)};
    const Vec<E> cell = load(a_.cells + stored(row) * s_.hidden + unit, units);
    const Acc* previous = previous_row(step, r, a_.cells, a_.c0, s_.hidden) + unit;
    Acc* running = a_.grad_c + r * s_.hidden + unit;
    const CellGradient<Vec<E>> grad =
        cell_backward<Math>(gate, cell, load(previous, units), grad_output, load(running, units));
    store(running, grad.cell_previous, units);
    E* out = shared_.grad_gates + row * 4 * s_.hidden + unit;
    store(out, grad.pre_activation.i, units);
    store(out + s_.hidden, grad.pre_activation.f, units);
    store(out + 2 * s_.hidden, grad.pre_activation.g, units);
    store(out + 3 * s_.hidden, grad.pre_activation.o, units);
  }

  GradientProduct<E> product(int64_t columns, const WeightGradient<E>& gradient, const WeightGradient<E>& bias,
                             const MaskBits& bits) const {
    return {shared_.grad_gates, s_.rows,          4 * s_.hidden, columns,         gradient, bias, bits,
            shared_.product,    scratch_.product, slice_.index,  a_.grid.slices()};
  }

  const LstmBackward<E>& a_;
  const LstmSizes& s_;
  const Slice slice_;
  BackwardShared<E> shared_;
  BackwardScratch<E> scratch_;
};

// All slices as one thread works on them.
template <typename E>
struct BackwardThread {
  using Slice = BackwardSlice<E>;

  BackwardThread(const LstmBackward<E>& args, const Member& thread) : member(thread) {
    slices.reserve(args.grid.slices());
    for (int64_t index = 0; index < args.grid.slices(); ++index) slices.emplace_back(args, index, member.first);
  }

  template <typename Work>
  void for_own(Work work) {
    for (int64_t index = member.first; index < member.last; ++index) work(slices[index]);
  }

  // A slice to do work with that belongs to no slice.
  Slice& any() { return slices[member.first]; }

  // One weight's gradient; `listing` and `product_of` are the slices' functions for it.
  template <typename Listing, typename ProductOf>
  void multiply_gradient(Listing listing, ProductOf product_of) {
    member.wait();  // the memory of the work before is free
    for_own([&](Slice& slice) { (slice.*listing)(); });
    member.wait();
    const GradientProduct<E> product = (any().*product_of)();
    for (int64_t chunk = 0; chunk < product.chunks(); ++chunk) {
      for_own([&](Slice& slice) { (slice.*product_of)().pack_right(chunk); });
      member.wait();  // packed; the chunk before may still be in use, this one has the other buffer
      member.share(product.blocks(), [&](int64_t block) { product.multiply_block(chunk, block); });
    }
  }

  Member member;
  std::vector<Slice> slices;
};

}  // namespace

template <typename E>
int64_t backward_scratch(const LstmBackward<E>& args) {
  return BackwardShared<E>().carve(args.sizes, args.dropconnect.enabled(), nullptr) +
         args.grid.slices() * BackwardScratch<E>().carve(args.sizes, args.grid, nullptr);
}

template <typename E>
void backward(const LstmBackward<E>& args, Member member) {
  using Slice = BackwardSlice<E>;
  const FlushDenormals flush;
  BackwardThread<E> thread(args, member);
  if (args.dropconnect.enabled()) {
    thread.member.share(thread.any().mask_pieces(), [&](int64_t piece) { thread.any().draw_mask(piece); });
    thread.member.wait();
  }
  thread.for_own([](Slice& slice) { slice.pack(); });
  thread.member.wait();
  for (int64_t step = args.sizes.steps - 1; step >= 0; --step) {
    thread.member.steal(
        [&](int64_t slice) { return thread.slices[slice].panels(); },
        [&](int64_t slice, int64_t first, int64_t last) { thread.slices[slice].run_step(step, first, last); });
    if (args.sizes.projected) {
      thread.member.wait();
      thread.for_own([&](Slice& slice) { slice.project_step(step); });
    }
    thread.member.wait();  // every unit's grad_gates of this step are there
  }
  thread.for_own([](Slice& slice) { slice.finish_h0(); });
  if (args.grad_input != nullptr) {
    thread.member.wait();  // W_hh's panels make room for W_ih's
    thread.for_own([](Slice& slice) { slice.pack_input_weights(); });
    thread.member.wait();
    thread.member.share(thread.any().input_blocks(), [&](int64_t block) { thread.any().grad_input(block); });
  }
  if (args.grad_weight_ih) thread.multiply_gradient(&Slice::list_input_rows, &Slice::input_product);
  if (args.grad_weight_hh) thread.multiply_gradient(&Slice::list_previous_rows, &Slice::recurrent_product);
  if (args.grad_bias && !args.grad_weight_ih && !args.grad_weight_hh)
    thread.for_own([](Slice& slice) { slice.grad_bias(); });
}

template int64_t backward_scratch(const LstmBackward<float>&);
template int64_t backward_scratch(const LstmBackward<double>&);
template int64_t backward_scratch(const LstmBackward<Bfloat16>&);
template void backward(const LstmBackward<float>&, Member);
template void backward(const LstmBackward<double>&, Member);
template void backward(const LstmBackward<Bfloat16>&, Member);

}  // namespace ulmfit_fast::ULMFIT_ISA
