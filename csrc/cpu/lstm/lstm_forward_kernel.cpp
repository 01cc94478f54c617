// The LSTM's forward on CPU, compiled once per instruction set; backward is in lstm_backward_kernel.cpp.
//
//   a_t = x_t W_ih^T + b + h_{t-1} (M o W_hh)^T / (1-p),  c_t = s(f) c_{t-1} + s(i) tanh(g),  h_t = s(o) tanh(c_t)
//   and, where asked for, sum and maximum of h over time (pool.h), without h leaving the caches
//
// A slice holds some hidden units for the whole sequence; with many threads it holds only some rows of each step. Where
// the weights do not come packed, its owner packs the units', except where all inputs fit one chunk: then whoever uses
// a panel packs it. The owner projects a chunk of steps' inputs and runs the recurrence on top. Each step has one
// barrier. A projection of h adds a second one, and so does the projection of a chunk. A thread that has finished its
// slice takes pieces of others, as cores of a shared machine are not equally fast. No row is padded. The limit is FMA
// throughput from 6 rows on, and reading the weights from L3 for fewer (shares: benchmarks/results). No reduction
// crosses threads, so the result depends neither on the thread count nor on the other rows.
#include <vector>

#include "../../common/cell.h"
#include "cell_math.h"
#include "layer_panels.h"
#include "lstm_steps.h"
#include "pool.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

// Whether W_ih's panels are packed once for all: they came so, or other chunks or other slices need them, too.
template <typename E>
static inline bool keeps_input_panels(const LstmForward<E>& args) {
  return args.packed != nullptr || args.sizes.rows > most_chunk_rows(args.sizes, args.grid) || args.grid.row_parts > 1;
}

// Used by all slices.
template <typename E>
struct ForwardShared {
  LayerPanels<E> panels;  // those given, or packed here, of W_ih if they are kept
  E* cell_output;         // [B, H] with a projection: o tanh(c) of the step
  uint8_t* mask;          // the mask's bits, of W_hh, if it is dropped

  int64_t carve(const LstmForward<E>& args, std::byte* at) {
    const LstmSizes& sizes = args.sizes;
    const bool dropped = args.dropconnect.enabled();
    Carver carver(at);
    if (args.packed != nullptr)
      panels.carve(sizes, /*with_input=*/true, const_cast<std::byte*>(args.packed));  // only read
    else
      panels.carve(sizes, keeps_input_panels(args),
                   carver.take<std::byte>(panels.carve(sizes, keeps_input_panels(args), nullptr)));
    cell_output = carver.take<E>(sizes.projected ? sizes.batch * sizes.hidden : 0);
    mask = carver.take<uint8_t>(dropped ? MaskBits::bytes(recurrent_elements(sizes)) : 0);
    return carver.taken();
  }
};

// A slice's own: what its pieces leave for later ones, whoever works on them.
template <typename E>
struct ForwardOwn {
  using Acc = Accumulator<E>;

  int64_t chunk_rows;  // most_chunk_rows
  Acc* bias;           // [its panels][4 * lanes]
  Acc* gates;          // [its panels][chunk_rows][4 * lanes], activated when their step is computed

  int64_t carve(const LstmSizes& sizes, const Grid& grid, std::byte* at) {
    const int64_t panels = most_columns(grid, column_vectors<E>(sizes.hidden)), width = 4 * kLanes<E>;
    chunk_rows = most_chunk_rows(sizes, grid);
    Carver carver(at);
    bias = carver.take<Acc>(panels * width);
    gates = carver.take<Acc>(panels * chunk_rows * width);
    return carver.taken();
  }
};

// A thread's.
template <typename E>
struct ForwardScratch {
  using Acc = Accumulator<E>;
  static constexpr int64_t kLinesPerRow =
      5 * Prefetch::most_lines<E>(kLanes<E>) + 2 * Prefetch::most_lines<Acc>(kLanes<E>);

  Word<E>* input_panel;  // of W_ih, if they are not kept
  Acc* tile;             // [rows of a step][4 * lanes], for the projection of h
  const E** rows;        // [chunk_rows]
  E* dropped;            // [lanes][the wider of F and P], or converted
  const void** lines;    // [rows of a step][kLinesPerRow]

  int64_t carve(const LstmForward<E>& args, std::byte* at) {
    const LstmSizes& sizes = args.sizes;
    const Grid& grid = args.grid;
    const int64_t step_rows = most_rows(grid, sizes.batch);
    Carver carver(at);
    input_panel = carver.take<Word<E>>(keeps_input_panels(args) ? 0 : packed_words<E>(4, sizes.input));
    tile = carver.take<Acc>(sizes.projected ? step_rows * kPanelVectors * kLanes<E> : 0);
    rows = carver.take<const E*>(most_chunk_rows(sizes, grid));
    dropped = carver.take<E>(kLanes<E> * larger(sizes.output, sizes.input));
    lines = carver.take<const void*>(step_rows * kLinesPerRow);
    return carver.taken();
  }
};

template <typename E>
class ForwardSlice {
  using Acc = Accumulator<E>;

 public:
  ForwardSlice(const LstmForward<E>& args, int64_t index, int64_t thread)
      : a_(args), s_(args.sizes), slice_(args.grid, index), panels_(slice_.columns(column_vectors<E>(s_.hidden))) {
    carve(a_.scratch, index, thread);
  }

  // Shared memory, that of slice `index`, and that of a thread (known by its first slice) that works on it. The bytes
  // that all of them take.
  int64_t carve(std::byte* at, int64_t index, int64_t thread) {
    const auto from = [&](int64_t offset) { return at == nullptr ? nullptr : at + offset; };
    const int64_t own = shared_.carve(a_, at), own_bytes = own_.carve(s_, a_.grid, nullptr);
    own_.carve(s_, a_.grid, from(own + index * own_bytes));
    const int64_t scratch = own + a_.grid.slices() * own_bytes, bytes = scratch_.carve(a_, nullptr);
    scratch_.carve(a_, from(scratch + thread * bytes));
    return scratch + a_.grid.slices() * bytes;
  }

  void prepare_inputs() {
    if (a_.packed == nullptr && keeps_input_panels(a_)) {
      const Range packing = slice_.packing(panels_.first, panels_.last);
      for (int64_t p = packing.first; p < packing.last; ++p)
        pack_input_weights(gate_panel<E>(shared_.panels.input, p, s_.input), p);
    }
    for (int64_t p = panels_.first; p < panels_.last; ++p) {
      const int64_t unit = p * kLanes<E>;
      for (int gate = 0; gate < 4; ++gate)
        store(own_.bias + ((p - panels_.first) * 4 + gate) * kLanes<E>,
              load(a_.bias + gate * s_.hidden + unit, s_.hidden - unit));
    }
  }

  // Pieces of the mask of W_hh, before it is packed.
  int64_t mask_pieces() const { return recurrent_mask_pieces(s_, a_.dropconnect); }
  void draw_mask(int64_t piece) { MaskBits::draw(shared_.mask, a_.dropconnect, recurrent_elements(s_), piece); }

  void pack_recurrent_weights() {
    if (a_.packed != nullptr) return;
    const DroppedWeight<E> hh{a_.weight_hh, s_.output, mask(), scratch_.dropped};
    const Range packing = slice_.packing(panels_.first, panels_.last);
    for (int64_t p = packing.first; p < packing.last; ++p)
      pack_gate_panel(gate_panel<E>(shared_.panels.recurrent, p, s_.output), hh, s_.hidden, p * kLanes<E>);
    if (!s_.projected) return;
    const PanelSet<E> set = output_panels();
    const Range output_packing = slice_.packing(0, set.count());
    for (int64_t p = output_packing.first; p < output_packing.last; ++p)
      pack_projection_panel(set, p, a_.weight_hr, s_);
  }

  int64_t panels() const { return panels_.count(); }

  ChunkOfSteps& chunk() { return chunk_; }
  void begin_step(int64_t step) { chunk_.begin_step(step, s_, slice_, own_.chunk_rows); }

  // A piece of the chunk that begins: a = x W_ih^T + b for its panels first .. last.
  void project(int64_t first, int64_t last) {
    int64_t count = 0;
    for (int64_t step = chunk_.begin(); step < chunk_.end(); ++step) {
      const Range rows = step_rows(step);
      for (int64_t r = rows.first; r < rows.last; ++r)
        scratch_.rows[count++] = a_.input + (s_.offsets[s_.step(step)] + r) * s_.input;
    }
    for (int64_t p = panels_.first + first; p < panels_.first + last; ++p)
      multiply_panel<E>(chunk_gates(p), {own_.bias + (p - panels_.first) * 4 * kLanes<E>, 0}, {scratch_.rows, count},
                        packed_input_panel(p));
  }

  // A piece of a step, panels first .. last: h, or with a projection what it is projected from.
  void run_step(int64_t step, int64_t first, int64_t last) {
    const Range rows = step_rows(step);
    for (int64_t r = rows.first; r < rows.last; ++r) scratch_.rows[r - rows.first] = previous_output(step, r);
    const int64_t ending = first_ending_row(s_, step);
    for (int64_t p = panels_.first + first; p < panels_.first + last; ++p) {
      Acc* gates = chunk_gates(p) + chunk_.row() * 4 * kLanes<E>;
      Prefetch prefetch = {scratch_.lines, rows.count() * ForwardScratch<E>::kLinesPerRow};
      for (int64_t r = rows.first; r < rows.last; ++r) prefetch_cell(prefetch, p, step, r);
      multiply_panel<E>(gates, {gates, 4 * kLanes<E>}, {scratch_.rows, rows.count()},
                        gate_panel<E>(shared_.panels.recurrent, p, s_.output), prefetch);
      for (int64_t r = 0; r < rows.count(); ++r) activate_gates(gates + r * 4 * kLanes<E>);
      for (int64_t r = rows.first; r < rows.last; ++r)
        update_cell(p, step, r, gates + (r - rows.first) * 4 * kLanes<E>, r >= ending);
    }
  }

  // h = (o tanh(c)) W_hr^T, when every unit's o tanh(c) is there.
  void project_step(int64_t step) {
    const int64_t first_row = s_.offsets[s_.step(step)];
    const Range rows = step_rows(step);
    for (int64_t r = rows.first; r < rows.last; ++r)
      scratch_.rows[r - rows.first] = shared_.cell_output + r * s_.hidden;
    const int64_t ending = larger(first_ending_row(s_, step), rows.first);
    const PanelSet<E> set = output_panels();
    const Range own = a_.packed != nullptr ? slice_.columns(set.count()) : Range(set.count(), 0, 1);
    for (int64_t p = own.first; p < own.last; ++p) {
      const Panel<E> panel = set.panel(p);
      multiply_panel<E>(scratch_.tile, zeros<E>(), {scratch_.rows, rows.count()}, panel);
      store_tile(a_.output + (first_row + rows.first) * s_.output, s_.output, set.column(p), scratch_.tile,
                 rows.count(), panel.width);
      store_tile(a_.h_n + ending * s_.output, s_.output, set.column(p),
                 scratch_.tile + (ending - rows.first) * panel.width * kLanes<E>, rows.last - ending, panel.width);
    }
  }

 private:
  MaskBits mask() const { return recurrent_mask(shared_.mask, a_.dropconnect); }
  Range step_rows(int64_t step) const { return slice_.step_rows(s_, step); }

  // Of W_hr: all, cut as they were packed for whatever grid, or those that the slice packs for itself.
  PanelSet<E> output_panels() const {
    const int64_t vectors = column_vectors<E>(s_.output);
    const Range columns = a_.packed != nullptr ? Range(vectors, 0, 1) : slice_.columns(vectors);
    return {shared_.panels.projection, s_.hidden, columns.first, columns.last};
  }
  // Kept, or packed now where this thread's next one will be.
  Panel<E> packed_input_panel(int64_t p) const {
    if (keeps_input_panels(a_)) return gate_panel<E>(shared_.panels.input, p, s_.input);
    const Panel<E> panel{scratch_.input_panel, 4, s_.input, /*alone=*/true};
    pack_input_weights(panel, p);
    return panel;
  }
  void pack_input_weights(const Panel<E>& panel, int64_t p) const {
    pack_gate_panel<E>(panel, {a_.weight_ih, s_.input, {}, scratch_.dropped}, s_.hidden, p * kLanes<E>);
  }
  Acc* chunk_gates(int64_t p) const { return own_.gates + (p - panels_.first) * own_.chunk_rows * 4 * kLanes<E>; }

  // Where h of a row stands, and where it stood one step of computation before.
  E* output_row(int64_t step, int64_t r) const {
    const int64_t first_row = a_.keep_output ? s_.offsets[s_.step(step)] : step % 2 * s_.batch;
    return a_.output + (first_row + r) * s_.output;
  }
  const E* previous_output(int64_t step, int64_t r) const {
    return r < continuing_rows(s_, step) ? output_row(step - 1, r) : a_.h0 + r * s_.output;
  }

  // Most of what update_cell touches, but for what it writes past the caches.
  void prefetch_cell(Prefetch& prefetch, int64_t p, int64_t step, int64_t r) const {
    const int64_t unit = p * kLanes<E>, units = smaller(kLanes<E>, s_.hidden - unit);
    const int64_t row = s_.offsets[s_.step(step)] + r;
    const auto add = [&](const auto* to) {
      if (!streams(to, units)) prefetch.add(to, units);
    };
    prefetch.add(a_.c + r * s_.hidden + unit, units);
    if (!s_.projected) prefetch.add(output_row(step, r) + unit, units);
    if (a_.cells != nullptr) add(a_.cells + row * s_.hidden + unit);
    if (a_.gates == nullptr) return;
    for (int gate = 0; gate < 4; ++gate) add(a_.gates + (row * 4 + gate) * s_.hidden + unit);
  }

  // A row's gates of one vector of units, in place. In a loop of its own: a gate's chain of dependent instructions
  // fills half of a core's window, and rows overlap little when the cell's stands between them.
  static void activate_gates(Acc* a) {
    constexpr int kCount = kLanes<E>;
    const Gates<Vec<E>> gate = activate<Math>(load(a), load(a + kCount), load(a + 2 * kCount), load(a + 3 * kCount));
    store(a, gate.i);
    store(a + kCount, gate.f);
    store(a + 2 * kCount, gate.g);
    store(a + 3 * kCount, gate.o);
  }

  // Row `r` of a step: cell and output of one vector of units from their activated gates `a`.
  void update_cell(int64_t p, int64_t step, int64_t r, const Acc* a, bool ending) {
    constexpr int kCount = kLanes<E>;
    const int64_t unit = p * kCount, units = s_.hidden - unit, row = s_.offsets[s_.step(step)] + r;
    const Gates<Vec<E>> gate = {load(a), load(a + kCount), load(a + 2 * kCount), load(a + 3 * kCount)};
    Acc* running = a_.c + r * s_.hidden + unit;
    const Vec<E> cell = cell_state(gate, load(running, units)), h = gate.o * Math::tanh(cell);
    store(running, cell, units);
    E* output = s_.projected ? shared_.cell_output + r * s_.hidden : output_row(step, r);
    store(output + unit, h, units);
    if (ending && !s_.projected) store(a_.h_n + r * s_.output + unit, h, units);
    if (a_.pool.total != nullptr) add_to_pool(a_.pool, r, s_.step(step), s_.output, unit, load(output + unit, units));
    if (a_.cells != nullptr) stream(a_.cells + row * s_.hidden + unit, cell, units);
    if (a_.gates == nullptr) return;
    E* saved = a_.gates + row * 4 * s_.hidden + unit;
    stream(saved, gate.i, units);
    stream(saved + s_.hidden, gate.f, units);
    stream(saved + 2 * s_.hidden, gate.g, units);
    stream(saved + 3 * s_.hidden, gate.o, units);
  }

  const LstmForward<E>& a_;
  const LstmSizes& s_;
  const Slice slice_;
  const Range panels_;  // its hidden units
  ForwardShared<E> shared_;
  ForwardOwn<E> own_;
  ForwardScratch<E> scratch_;
  ChunkOfSteps chunk_;  // steps that are projected
};

template <typename E>
int64_t forward_scratch(const LstmForward<E>& args) {
  return ForwardSlice<E>(args, 0, 0).carve(nullptr, 0, 0);
}

template <typename E>
void forward(const LstmForward<E>& args, Member member) {
  const FlushDenormals flush;
  std::vector<ForwardSlice<E>> slices;
  slices.reserve(args.grid.slices());
  for (int64_t index = 0; index < args.grid.slices(); ++index) slices.emplace_back(args, index, member.first);
  const auto for_own = [&](auto work) {
    for (int64_t index = member.first; index < member.last; ++index) work(slices[index]);
  };
  for_own([](ForwardSlice<E>& slice) { slice.prepare_inputs(); });
  ForwardSlice<E>& any = slices[member.first];
  member.share(any.mask_pieces(), [&](int64_t piece) { any.draw_mask(piece); });
  for (int64_t step = 0; step < args.sizes.steps; ++step) {
    bool begins = false;
    for (ForwardSlice<E>& slice : slices) {
      slice.begin_step(step);
      begins = begins || slice.chunk().begins(step);
    }
    member.wait();  // the step before is complete, or what precedes the first
    if (begins) {
      member.steal([&](int64_t slice) { return slices[slice].chunk().begins(step) ? slices[slice].panels() : 0; },
                   [&](int64_t slice, int64_t first, int64_t last) { slices[slice].project(first, last); });
      // Late, to find them in the caches.
      if (step == 0) for_own([](ForwardSlice<E>& slice) { slice.pack_recurrent_weights(); });
      member.wait();
    }
    member.steal([&](int64_t slice) { return slices[slice].panels(); },
                 [&](int64_t slice, int64_t first, int64_t last) { slices[slice].run_step(step, first, last); });
    for (ForwardSlice<E>& slice : slices) slice.chunk().end_step();
    if (!args.sizes.projected) continue;
    member.wait();
    for_own([&](ForwardSlice<E>& slice) { slice.project_step(step); });
  }
#if defined(__SSE2__)
  _mm_sfence();  // streamed gates and cells are ordered before whatever ends the region
#endif
}

template <typename E>
constexpr LstmKernels<E> kernels = {kLanes<E>,           kTileRows,       forward_scratch<E>,
                                    backward_scratch<E>, forward<E>,      backward<E>,
                                    packed_bytes<E>,     pack_scratch<E>, pack<E>};

}  // namespace

extern const LstmKernels<float> lstm_float;
extern const LstmKernels<double> lstm_double;
extern const LstmKernels<Bfloat16> lstm_bfloat16;
const LstmKernels<float> lstm_float = kernels<float>;
const LstmKernels<double> lstm_double = kernels<double>;
const LstmKernels<Bfloat16> lstm_bfloat16 = kernels<Bfloat16>;

}  // namespace ulmfit_fast::ULMFIT_ISA
