// The scratch memory of the LSTM's backward: what all threads share, and what is a thread's own.
#pragma once

#include "weight_gradient.h"

namespace ulmfit_fast::ULMFIT_ISA {

constexpr int64_t kLeastInputTiles = 8, kMostInputTiles = 32;  // of rows of grad x, computed against all of W_ih
constexpr int64_t kPrefetchRows = 96;                          // of a step, whose lines L2 has room for

template <typename E>
struct BackwardShared {
  Word<E>*packed_hh, *packed_hr, *packed_ih;  // packed_ih replaces packed_hh when the recurrence is done
  E* grad_gates;                              // [N, 4H] before the non-linearities
  uint8_t* mask;                              // the mask's bits, of W_hh, if it is dropped
  ProductShared<E> product;                   // its sums replace packed_ih when grad_input is done

  int64_t carve(const LstmSizes& sizes, bool dropped, std::byte* at) {
    const int64_t gates = 4 * sizes.hidden, widest = larger(sizes.output, sizes.input);
    const int64_t weight_bytes = packed_words<E>(column_vectors<E>(widest), gates) * sizeof(Word<E>);
    const int64_t sum_bytes = ProductShared<E>::sum_count(gates, widest) * sizeof(Accumulator<E>);
    Carver carver(at);
    std::byte* big = carver.take<std::byte>(larger(weight_bytes, sum_bytes));
    packed_hh = packed_ih = reinterpret_cast<Word<E>*>(big);
    product.sums = reinterpret_cast<Accumulator<E>*>(big);
    packed_hr =
        carver.take<Word<E>>(sizes.projected ? packed_words<E>(column_vectors<E>(sizes.hidden), sizes.output) : 0);
    grad_gates = carver.take<E>(sizes.rows * gates);
    mask = carver.take<uint8_t>(dropped ? MaskBits::bytes(recurrent_elements(sizes)) : 0);
    for (Word<E>*& right : product.right)
      right = carver.take<Word<E>>(ProductShared<E>::right_words(sizes.rows, widest));
    product.left_sums = carver.take<Accumulator<E>>(gates);
    product.right_rows = carver.take<const E*>(sizes.rows);
    return carver.taken();
  }
};

// A thread's.
template <typename E>
struct BackwardScratch {
  using Acc = Accumulator<E>;
  // What the cell's update touches of a row and a panel: grad h and grad a of 4 gates, gates, three cell states.
  static constexpr int64_t kColumns = kPanelVectors * kLanes<E>;
  static constexpr int64_t kLinesPerRow =
      9 * Prefetch::most_lines<E>(kColumns) + 3 * Prefetch::most_lines<Acc>(kColumns);

  Acc* tile;           // [rows of a step, or of grad x][4 * lanes]
  const E** rows;      // as many
  E* dropped;          // [kGroup][the wider of F and P], or converted
  const void** lines;  // [line_count] for kPrefetchRows
  int64_t line_count;
  ProductScratch<E> product;

  int64_t carve(const LstmSizes& sizes, const Grid& grid, std::byte* at) {
    const int64_t rows_at_a_time = larger(most_rows(grid, sizes.batch), kMostInputTiles * kTileRows);
    Carver carver(at);
    tile = carver.take<Acc>(rows_at_a_time * kPanelVectors * kLanes<E>);
    rows = carver.take<const E*>(rows_at_a_time);
    dropped = carver.take<E>(kGroup<E> * larger(sizes.output, sizes.input));
    line_count = smaller(most_rows(grid, sizes.batch), kPrefetchRows) * kLinesPerRow;
    lines = carver.take<const void*>(line_count);
    product.carve(carver, larger(sizes.output, sizes.input));
    return carver.taken();
  }
};

}  // namespace ulmfit_fast::ULMFIT_ISA
