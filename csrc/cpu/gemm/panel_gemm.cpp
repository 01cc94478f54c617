// The tiles of the matrix multiply under every CPU kernel, compiled once per instruction set.
//
// Limit: the FMA ports. On 2 cores of Zen 4 the tile alone reached 0.97 of the FMA peak at 1152 -> 4608 from 6 rows on,
// in float32 and in bfloat16 (W from L3); weights are pinned in registers, as GCC would fold each load into six FMAs
// and be bound by loads at 0.8. A row's sum runs over the depth in order, in one accumulator, whatever the other rows
// are: results do not depend on the batch.
#include "panel_gemm.h"

#include <array>

#include "multiply_add.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

// A group's vectors in a tile lie one after the other; in a tile as wide as two (kFewRows), those of the second half
// lie `gap` words behind those of the first.
template <int V>
constexpr int kBeside = V < kTileVectors ? V : kTileVectors;

template <int V, typename T>
inline void load_weights(Vec<T> (&weight)[V], const T* from, int64_t gap) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v)
    load_weight(weight[v], from + v % kTileVectors * kLanes<T> + (v < kTileVectors ? 0 : gap));
}

template <int V, typename Vector>
inline void multiply_add(Vector (&sum)[V], Vector value, const Vector (&weight)[V]) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) fused_multiply_add(sum[v], value, weight[v]);
}

// sum[r] += one group of row r, at row[r] + offset, times the panel's words of it.
template <int R, int V, typename T>
inline void multiply_group(Vec<T> (&sum)[R][V], const T* const (&row)[R], int64_t offset, const T* words, int64_t gap) {
  Vec<T> weight[V];
  load_weights<V>(weight, words, gap);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    Vec<T> value;
    broadcast_value(value, row[r] + offset);
    multiply_add<V>(sum[r], value, weight);
  }
}

// A pair, or with `Half` only the first of it, the second counting as zero.
template <bool Half = false>
inline uint32_t load_pair(const Bfloat16* from) {
  uint32_t pair = 0;
  std::memcpy(&pair, from, Half ? 2 : 4);
  return pair;
}

#if defined(ULMFIT_BFLOAT16_PAIRS)

template <int R, int V, bool Half = false>
inline void multiply_group(Vec<float> (&sum)[R][V], const Bfloat16* const (&row)[R], int64_t offset,
                           const uint32_t* words, int64_t gap) {
  WordVec weight[V];
  load_weights<V>(weight, words, gap);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    WordVec value = broadcast(load_pair<Half>(row[r] + offset));
    ULMFIT_PIN(value);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) multiply_add_pairs(sum[r][v], value, weight[v]);
  }
}

#else

template <int R, int V, bool Half = false>
inline void multiply_group(Vec<float> (&sum)[R][V], const Bfloat16* const (&row)[R], int64_t offset, const float* words,
                           int64_t gap) {
  for (int element = 0; element < (Half ? 1 : 2); ++element) {
    Vec<float> weight[V];
    load_weights<V>(weight, words + element * kBeside<V> * kLanes<float>, gap);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const WordVec pair = broadcast(load_pair<Half>(row[r] + offset));
      multiply_add<V>(sum[r], bit_cast<Vec<float>>(element == 0 ? pair << 16 : pair & 0xFFFF0000u), weight);
    }
  }
}

#endif

// A tile multiplies a slot of groups at a time. Before each slot it prefetches data that is needed later. The number of
// prefetches is the same before every slot: on a core with busy neighbours, a loop over a few addresses cost more than
// all of its prefetches.
//
// Narrow tiles (AVX2) prefetch panels to L2. Without that a core reads a panel from L3 at 34 GB/s, as Zen 3's own
// prefetcher does not keep up. Where several tiles of rows pass over a panel, the last of them prefetch the next panel.
// A lone tile prefetches its own panel, kFetchAhead bytes ahead. Wide tiles (AVX-512) prefetch the next tile's rows.
// Narrow ones do not: it costs them a fifth. Whole panels brought nothing on Zen 4; parts of panels are untried.
constexpr bool kNarrow = kTileVectors == 2;
constexpr int kUnroll = kOrdered ? 4 : 1;
constexpr int64_t kFetchAhead = 8 << 10;

// Groups of a slot.
template <typename E>
constexpr int64_t kSlotGroups = kNarrow ? 4 : Prefetch::kLine / sizeof(E) / kGroup<E>;

// Cache lines of V vectors that a slot multiplies.
template <typename E>
constexpr int64_t slot_lines(int V) {
  return kSlotGroups<E> * PanelFormat<E>::kWords * V * ULMFIT_VECTOR_BYTES / Prefetch::kLine;
}

// What a tile fetches of panels: with each slot some lines from `from` on, which then moves so many words.
template <typename E>
struct PanelFetch {
  const Word<E>* from;
  int64_t advance;
};

// The fetching while so many tiles of rows, one after the other, pass over a panel: the last `share` of them fetch the
// next panel, as rows may push it out again.
template <typename E>
class PanelFetches {
 public:
  // `now` is multiplied in so many slots of so many lines (a power of two), and `next`, about as large, afterwards.
  PanelFetches(const Word<E>* now, const Word<E>* next, int64_t slots, int64_t lines, int64_t tiles)
      : now_(now),
        next_(next),
        slots_(slots),
        tiles_(tiles),
        share_(smaller(lines, tiles < 2 ? 1 : smaller(tiles / 2 * 2, 4))),
        advance_(lines / share_ * (Prefetch::kLine / static_cast<int64_t>(sizeof(Word<E>)))) {}

  // The slots' lines over those that each of the panel's tiles fetches: 1, 2 or 4.
  int64_t share() const { return share_; }

  PanelFetch<E> of(int64_t tile) const {
    const int64_t first = tiles_ - share_;
    if (tiles_ == 1) return {now_ + kFetchAhead / static_cast<int64_t>(sizeof(Word<E>)), advance_};
    if (tile < first) return {now_, 0};  // the same lines again and again
    return {next_ + (tile - first) * slots_ * advance_, advance_};
  }

 private:
  const Word<E>*now_, *next_;
  int64_t slots_, tiles_, share_, advance_;
};

// Up to so many rows, narrow tiles are as wide as a whole panel: in half of it there are too few sums to hide the
// multiply-adds' latency, and one row took a panel from L3 at 37 GB/s a core that can give 62.
constexpr int64_t kFewRows = 2;

// What a tile multiplies: some rows, `groups` groups deep (and half a group more with `half`), by some of a panel's
// vectors. Element k of row r stands at rows[r] + offset + k / kGroup * Step + k % kGroup.
template <typename E>
struct TileWork {
  Sums<E> out;
  Start<E> start;
  const E* const* rows;
  int64_t offset;
  const Word<E>* words;
  int64_t gap;  // for tiles as wide as two (load_weights)
  int64_t groups;
  bool half;
};

// What a tile prefetches while it multiplies. None of it changes a result.
template <typename E>
struct TileFetches {
  PanelFetch<E> panels;
  Prefetch listed;      // narrow tiles prefetch these in their last slots
  bool as_many_follow;  // rows: their sums are prefetched, by wide tiles their elements, too
};

// Never inlined, and with one loop over slots: in a larger function, or with several loops, its registers are spilled.
template <typename E, int Step, int R, int V, int Share>
__attribute__((noinline)) void multiply_tile(const TileWork<E>& work, const TileFetches<E>& fetches) {
  const auto [out, start, rows, first_offset, first_words, gap, groups, half] = work;
  const bool as_many_follow = fetches.as_many_follow;
  const Prefetch& prefetch = fetches.listed;
  PanelFetch<E> panels = fetches.panels;
  int64_t offset = first_offset;
  const Word<E>* words = first_words;
  using Acc = Accumulator<E>;
  constexpr int64_t kAdvance = PanelFormat<E>::kWords * kBeside<V> * kLanes<E>, kSlot = kSlotGroups<E>;
  constexpr int64_t kLineWords = Prefetch::kLine / sizeof(Word<E>), kLines = slot_lines<E>(kBeside<V>) / Share;
  Vec<Acc> sum[R][V];
  const E* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    row[r] = rows[r];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = load(start.from + r * start.stride + v * kLanes<E>);
  }
  if (as_many_follow && start.stride != 0) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) __builtin_prefetch(start.from + (R + r) * start.stride + v * kLanes<E>, 1, 2);
    }
  }
  const int64_t slots = groups / kSlot;
  const void* const* line = prefetch.lines;
  const void* const* const last_line = line + prefetch.count;
  const int64_t at_a_time = kNarrow || slots == 0 ? 1 : (prefetch.count + slots - 1) / slots;
  for (; last_line - line > slots * at_a_time; ++line) __builtin_prefetch(*line, 0, 2);
  int64_t early = slots - (last_line - line);  // slots that fetch nothing of the list
  for (const Word<E>* const end = words + slots * kSlot * kAdvance; words < end;) {
    if constexpr (kNarrow) {
      if (--early < 0) __builtin_prefetch(*line++, 0, 2);
#pragma GCC unroll 8
      for (int i = 0; i < kLines; ++i) {
        __builtin_prefetch(panels.from + i * kLineWords, 0, 2);
        if constexpr (V > kTileVectors) __builtin_prefetch(panels.from + gap + i * kLineWords, 0, 2);
      }
      panels.from += panels.advance;
    } else {
      for (int64_t i = 0; i < at_a_time && line != last_line; ++i) __builtin_prefetch(*line++, 0, 2);
      if (Step == kGroup<E> && as_many_follow) {  // a block that was turned round is in L2 already
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) __builtin_prefetch(rows[R + r] + offset, 0, 2);
      }
    }
#pragma GCC unroll kUnroll
    for (int64_t i = 0; i < kSlot; ++i) multiply_group<R, V>(sum, row, offset + i * Step, words + i * kAdvance, gap);
    offset += kSlot * Step;
    words += kSlot * kAdvance;
  }
  for (int64_t g = slots * kSlot; g < groups; ++g, offset += Step, words += kAdvance)
    multiply_group<R, V>(sum, row, offset, words, gap);
  if constexpr (kGroup<E> > 1) {
    if (half) multiply_group<R, V, true>(sum, row, offset, words, gap);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(out.to + r * out.stride + v * kLanes<E>, sum[r][v]);
  }
}

template <typename E>
using TileFunction = void (*)(const TileWork<E>&, const TileFetches<E>&);

// The tile of R rows and V vectors, or null where no panel is cut so: only few rows take narrow tiles as wide as two,
// and only narrow tiles share a panel's prefetches.
template <typename E, int Step, int R, int V, int Share>
constexpr TileFunction<E> tile_function() {
  constexpr bool kBesideOthers = V <= kTileVectors && (kNarrow || Share == 1);
  constexpr bool kWholePanel = kNarrow && V == 2 * kTileVectors && R <= kFewRows && Share == 1;
  if constexpr (kBesideOthers || kWholePanel)
    return multiply_tile<E, Step, R, V, Share>;
  else
    return nullptr;
}

// All tiles of one Step: [log2 share][vectors - 1][rows - 1].
template <typename E, int Step>
class TileTable {
 public:
  static TileFunction<E> find(int64_t share, int64_t vectors, int64_t rows) {
    assert((share == 1 || share == 2 || share == 4) && vectors >= 1 && vectors <= kPanelVectors);
    assert(rows >= 1 && rows <= kTileRows);
    const TileFunction<E> tile = kTiles[share / 2][vectors - 1][rows - 1];
    assert(tile != nullptr);
    return tile;
  }

 private:
  using Rows = std::array<TileFunction<E>, kTileRows>;
  using Vectors = std::array<Rows, kPanelVectors>;

  template <int Share, int V, int... R>
  static constexpr Rows of_rows(std::integer_sequence<int, R...>) {
    return {tile_function<E, Step, R + 1, V, Share>()...};
  }
  template <int Share, int... V>
  static constexpr Vectors of_vectors(std::integer_sequence<int, V...>) {
    return {of_rows<Share, V + 1>(std::make_integer_sequence<int, kTileRows>())...};
  }
  static constexpr auto kEach = std::make_integer_sequence<int, kPanelVectors>();
  static constexpr std::array<Vectors, 3> kTiles = {of_vectors<1>(kEach), of_vectors<2>(kEach), of_vectors<4>(kEach)};
};

// The first of `count` rows that tile `index` of `tiles` multiplies. Narrow tiles of less than 4 rows have too few sums
// to hide the multiply-adds' latency: rows are cut into tiles as equal as possible. Wide ones are cut into whole tiles
// and a rest, which measured 1 to 3 % faster.
inline int64_t tile_begin(int64_t count, int64_t index, int64_t tiles) {
  return kNarrow ? count * index / tiles : smaller(index * kTileRows, count);
}

// A slab of a panel that stays in L2 while all rows pass: depth is cut into equal slabs of at most this.
constexpr int64_t kSlabBytes = 300 << 10;

// The words that are multiplied after a tile's vectors in one slab: the next tile of the panel, then its next slab,
// then the panel behind it.
template <typename E>
inline const Word<E>* words_after(const Panel<E>& panel, int tile, int tiles, int64_t begin, int64_t end, bool last) {
  constexpr int64_t kWords = PanelFormat<E>::kWords;
  if (tile + 1 < tiles) return panel.at((tile + 1) * kTileVectors, begin * kWords);
  if (!last) return panel.at(0, end * kWords);
  return panel.alone ? panel.words : panel.words + packed_words<E>(panel.width, panel.depth);
}

}  // namespace

template <typename E>
void multiply_panel(Sums<E> out, Start<E> start, const RowBlock<E>& block, const Panel<E>& panel, Prefetch prefetch) {
  assert(block.count >= 0 && panel.depth >= 0 && panel.width >= 1 && panel.width <= kPanelVectors);
  assert(prefetch.count <= prefetch.capacity);
  const int64_t groups = panel.depth / kGroup<E>, all_groups = depth_groups<E>(panel.depth);
  constexpr int64_t kWords = PanelFormat<E>::kWords;
  const int64_t group_bytes = kWords * panel.width * ULMFIT_VECTOR_BYTES;
  const int64_t row_tiles = (block.count + kTileRows - 1) / kTileRows;
  const int64_t slabs = row_tiles < 2 ? 1 : (all_groups * group_bytes + kSlabBytes - 1) / kSlabBytes;
  const int64_t listed = prefetch.count;
  const bool whole = kNarrow && panel.width == 2 * kTileVectors && block.count <= kFewRows;
  const int tiles = whole ? 1 : panel.tiles();
  const int64_t gap = panel_depth<E>(panel.depth) * kTileVectors * kLanes<E>;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    const int64_t begin = groups * slab / slabs, end = groups * (slab + 1) / slabs;
    const bool half = slab + 1 == slabs && all_groups > groups;
    for (int tile = 0; tile < tiles; ++tile) {
      const Word<E>* words = panel.at(tile * kTileVectors, begin * kWords);
      const int64_t column = tile * kTileVectors * kLanes<E>;
      const Word<E>* after = words_after(panel, tile, tiles, begin, end, slab + 1 == slabs);
      const int width = whole ? panel.width : panel.tile_width(tile);
      const int64_t slots = (end - begin) / kSlotGroups<E>;
      const int64_t all_slots = larger(1, slabs * tiles * row_tiles * slots);
      const int64_t at_a_time = kNarrow ? 1 : larger(1, (listed + all_slots - 1) / all_slots);
      const PanelFetches<E> fetches(words, after, slots, slot_lines<E>(smaller(width, kTileVectors)), row_tiles);
      for (int64_t i = 0; i < row_tiles; ++i) {
        const int64_t r = tile_begin(block.count, i, row_tiles), next = tile_begin(block.count, i + 1, row_tiles);
        const bool as_many_follow = next + (next - r) <= block.count;
        const Sums<E> to = {out.to + r * out.stride + column, out.stride};
        const Start<E> from = slab == 0 ? Start<E>{start.from + r * start.stride + column, start.stride} : to;
        // As late as so many lines a slot allow: what comes earlier, rows and panels have pushed out of L2 again.
        const int64_t tiles_left = ((slabs - slab) * tiles - tile) * row_tiles - i - 1;
        const int64_t now = larger(0, prefetch.count - tiles_left * slots * at_a_time);
        const auto multiply = [&]<int Step>() {
          TileTable<E, Step>::find(kNarrow ? fetches.share() : 1, width, next - r)(
              {to, from, block.rows + r, begin * Step, words, gap, end - begin, half},
              {fetches.of(i), {prefetch.lines, now, now}, as_many_follow});
        };
        if (block.turned)
          multiply.template operator()<kTileRows * kGroup<E>>();
        else
          multiply.template operator()<kGroup<E>>();
        prefetch.lines += now;
        prefetch.count -= now;
      }
    }
  }
}

template void multiply_panel(Sums<float>, Start<float>, const RowBlock<float>&, const Panel<float>&, Prefetch);
template void multiply_panel(Sums<double>, Start<double>, const RowBlock<double>&, const Panel<double>&, Prefetch);
template void multiply_panel(Sums<Bfloat16>, Start<Bfloat16>, const RowBlock<Bfloat16>&, const Panel<Bfloat16>&,
                             Prefetch);

}  // namespace ulmfit_fast::ULMFIT_ISA
