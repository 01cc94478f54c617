// The tiles of the matrix multiply under every CPU kernel, compiled once per instruction set.
//
// Limit: the FMA ports. On 2 cores of Zen 4 the tile alone reached 0.97 of the FMA peak at 1152 -> 4608 from 6 rows on,
// in float32 and in bfloat16 (W from L3); weights are pinned in registers, as GCC would fold each load into six FMAs
// and be bound by loads at 0.8. A row's sum runs over the depth in order, in one accumulator, whatever the other rows
// are: results do not depend on the batch.
#include "panel_gemm.h"

namespace ulmfit_fast::ULMFIT_ISA {
namespace {

template <int V, typename T>
inline void load_weights(Vec<T> (&weight)[V], const T* from) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    weight[v] = load(from + v * kLanes<T>);
    ULMFIT_PIN(weight[v]);
  }
}

template <int V, typename Vector>
inline void multiply_add(Vector (&sum)[V], Vector value, const Vector (&weight)[V]) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[v] += value * weight[v];
}

// sum[r] += one group of row r, at row[r] + offset, times the panel's words of it.
template <int R, int V, typename T>
inline void multiply_group(Vec<T> (&sum)[R][V], const T* const (&row)[R], int64_t offset, const T* words) {
  Vec<T> weight[V];
  load_weights<V>(weight, words);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    Vec<T> value = broadcast(row[r][offset]);
    ULMFIT_PIN(value);
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

// As an instruction, not _mm512_dpbf16_ps: around its type GCC 12 spills in the innermost loop.
inline void multiply_add_pairs(Vec<float>& sum, WordVec value, WordVec weight) {
#if defined(__AVX512BF16__)
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(value), "v"(weight));
#else
  sum += bit_cast<Vec<float> >(value << 16) * bit_cast<Vec<float> >(weight << 16);
  sum += bit_cast<Vec<float> >(value & 0xFFFF0000u) * bit_cast<Vec<float> >(weight & 0xFFFF0000u);
#endif
}

template <int R, int V, bool Half = false>
inline void multiply_group(Vec<float> (&sum)[R][V], const Bfloat16* const (&row)[R], int64_t offset,
                           const uint32_t* words) {
  WordVec weight[V];
  load_weights<V>(weight, words);
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
inline void multiply_group(Vec<float> (&sum)[R][V], const Bfloat16* const (&row)[R], int64_t offset,
                           const float* words) {
  for (int element = 0; element < (Half ? 1 : 2); ++element) {
    Vec<float> weight[V];
    load_weights<V>(weight, words + element * V * kLanes<float>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const WordVec pair = broadcast(load_pair<Half>(row[r] + offset));
      multiply_add<V>(sum[r], bit_cast<Vec<float> >(element == 0 ? pair << 16 : pair & 0xFFFF0000u), weight);
    }
  }
}

#endif

// Panels are fetched to L2 before they are needed: an AVX2 tile would take one from L3 at 34 GB/s a core, which Zen 3's
// own prefetcher does not reach. While several tiles of rows pass over a panel, each fetches its part of the next one;
// alone, a tile fetches its own panel so many bytes ahead. Beside a busy process 8 to 64 rows gained 8 to 31 %. With
// AVX-512 on Zen 4 fetching whole panels brought nothing; parts are untried.
constexpr bool kFetchesPanels = kTileVectors == 2;
constexpr int64_t kFetchAhead = 8 << 10;

// Groups that take one cache line of a row.
template <typename E>
constexpr int64_t kLineGroups = Prefetch::kLine / sizeof(E) / kGroup<E>;

// What a tile fetches of panels: `lines` cache lines from `next` on for each kLineGroups groups, or with each group the
// lines `ahead` words on.
template <typename E>
struct PanelFetch {
  const Word<E>* next = nullptr;
  int64_t lines = 0, ahead = 0;
};

// The fetching while so many tiles of rows, one after the other, pass over `groups` groups of a panel.
template <typename E>
class PanelFetches {
 public:
  // `next` is what is multiplied afterwards, about as many words as now.
  PanelFetches(const Word<E>* next, int64_t words, int64_t groups, int64_t tiles) : tiles_(tiles), next_(next) {
    if (!kFetchesPanels || tiles < 2 || groups == 0) return;
    const int64_t lines = words / kLineWords, rounds = parts(groups, kLineGroups<E>);
    lines_ = larger(1, parts(lines, tiles * rounds));
    words_ = lines_ * rounds * kLineWords;
    first_ = tiles - parts(lines, lines_ * rounds);  // late, as rows may push it out again
  }

  PanelFetch<E> of(int64_t tile) const {
    if (!kFetchesPanels) return {};
    if (tiles_ == 1) return {nullptr, 0, kFetchAhead / static_cast<int64_t>(sizeof(Word<E>))};
    return tile < first_ ? PanelFetch<E>{} : PanelFetch<E>{next_ + (tile - first_) * words_, lines_, 0};
  }

 private:
  static constexpr int64_t kLineWords = Prefetch::kLine / sizeof(Word<E>);
  static int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

  int64_t tiles_, first_ = 0, lines_ = 0, words_ = 0;
  const Word<E>* next_;
};

// One tile over `groups` groups, and half a group more with `half`. Meanwhile panels are fetched, `prefetch`, too, and
// for the next tile the same elements of `next_count` rows further on and what its sums start from. Never inlined:
// within a larger function its registers are spilled.
template <typename E, int R, int V>
__attribute__((noinline)) void multiply_tile(Sums<E> out, Start<E> start, const E* const* rows, int64_t next_count,
                                             int64_t offset, int64_t step, const Word<E>* words, PanelFetch<E> panels,
                                             int64_t groups, bool half, const Prefetch& prefetch) {
  using Acc = Accumulator<E>;
  constexpr int64_t kAdvance = PanelFormat<E>::kWords * V * kLanes<E>;
  constexpr int64_t kLineWords = Prefetch::kLine / sizeof(Word<E>);
  Vec<Acc> sum[R][V];
  const E* row[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    row[r] = rows[r];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = load(start.from + r * start.stride + v * kLanes<E>);
  }
  if (start.stride != 0) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) __builtin_prefetch(start.from + (R + r) * start.stride + v * kLanes<E>, 1, 2);
    }
  }
  const int64_t rounds = larger(1, (groups + kLineGroups<E> - 1) / kLineGroups<E>);
  const int64_t at_a_time = (prefetch.count + rounds - 1) / rounds;
  for (int64_t g = 0, fetched = 0; g < groups;) {
    for (int64_t r = 0; r < next_count; ++r) __builtin_prefetch(rows[R + r] + offset, 0, 2);
    for (int64_t i = 0; kFetchesPanels && i < panels.lines; ++i, panels.next += kLineWords)
      __builtin_prefetch(panels.next, 0, 2);
    for (const int64_t until = smaller(fetched + at_a_time, prefetch.count); fetched < until; ++fetched)
      __builtin_prefetch(prefetch.lines[fetched], 0, 2);
    const int64_t end = smaller(g + kLineGroups<E>, groups);
    if (kFetchesPanels && panels.ahead > 0) {
      for (; g < end; ++g, offset += step, words += kAdvance) {
#pragma GCC unroll 4
        for (int64_t word = 0; word < kAdvance; word += kLineWords)
          __builtin_prefetch(words + panels.ahead + word, 0, 2);
        multiply_group<R, V>(sum, row, offset, words);
      }
    } else {
      for (; g < end; ++g, offset += step, words += kAdvance) multiply_group<R, V>(sum, row, offset, words);
    }
  }
  if constexpr (kGroup<E> > 1) {
    if (half) multiply_group<R, V, true>(sum, row, offset, words);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(out.to + r * out.stride + v * kLanes<E>, sum[r][v]);
  }
}

template <typename E, int V, typename... Args>
inline void multiply_rows(int64_t count, Args... args) {
  switch (count) {
    case 1:
      return multiply_tile<E, 1, V>(args...);
    case 2:
      return multiply_tile<E, 2, V>(args...);
    case 3:
      return multiply_tile<E, 3, V>(args...);
    case 4:
      return multiply_tile<E, 4, V>(args...);
    case 5:
      return multiply_tile<E, 5, V>(args...);
    default:
      return multiply_tile<E, kTileRows, V>(args...);
  }
}

template <typename E, typename... Args>
inline void multiply_vectors(int width, Args... args) {
  switch (width) {
    case 1:
      return multiply_rows<E, 1>(args...);
    case 2:
      return multiply_rows<E, 2>(args...);
#if ULMFIT_VECTOR_BYTES == 64
    case 3:
      return multiply_rows<E, 3>(args...);
    case 4:
      return multiply_rows<E, 4>(args...);
#endif
  }
}

// The first of `count` rows that tile `index` of `tiles` multiplies. Narrow tiles of less than 4 rows have too few sums
// to hide the multiply-adds' latency: rows are cut into tiles as equal as possible. Wide ones are cut into whole tiles
// and a rest, which measured 1 to 3 % faster.
inline int64_t tile_begin(int64_t count, int64_t index, int64_t tiles) {
  return kTileVectors == 2 ? count * index / tiles : smaller(index * kTileRows, count);
}

// A slab of a panel that stays in L2 while all rows pass: depth is cut into equal slabs of at most this.
constexpr int64_t kSlabBytes = 300 << 10;

}  // namespace

template <typename E>
void multiply_panel(Sums<E> out, Start<E> start, const RowBlock<E>& block, const Panel<E>& panel, Prefetch prefetch) {
  const int64_t groups = panel.depth / kGroup<E>, all_groups = depth_groups<E>(panel.depth);
  constexpr int64_t kWords = PanelFormat<E>::kWords;
  const int64_t group_bytes = kWords * panel.width * ULMFIT_VECTOR_BYTES;
  const int64_t slabs = (all_groups * group_bytes + kSlabBytes - 1) / kSlabBytes;
  const int64_t row_tiles = (block.count + kTileRows - 1) / kTileRows;
  const int64_t tile_lines = row_tiles == 0 ? 0 : prefetch.count / (slabs * panel.tiles() * row_tiles) + 1;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    const int64_t begin = groups * slab / slabs, end = groups * (slab + 1) / slabs;
    const bool half = slab + 1 == slabs && all_groups > groups;
    for (int tile = 0; tile < panel.tiles(); ++tile) {
      const Word<E>* words = panel.at(tile * kTileVectors, begin * kWords);
      const int64_t column = tile * kTileVectors * kLanes<E>;
      // A panel's last tile of vectors is followed by the next panel.
      const Word<E>* after = tile + 1 < panel.tiles() ? panel.at((tile + 1) * kTileVectors, begin * kWords)
                             : slab + 1 < slabs       ? panel.at(0, end * kWords)
                                                      : panel.words + packed_words<E>(panel.width, panel.depth);
      const PanelFetches<E> fetches(after, (end - begin) * kWords * panel.tile_width(tile) * kLanes<E>, end - begin,
                                    row_tiles);
      for (int64_t i = 0; i < row_tiles; ++i) {
        const int64_t r = tile_begin(block.count, i, row_tiles), next = tile_begin(block.count, i + 1, row_tiles);
        // A block that was turned round is in L2 already.
        const int64_t next_rows =
            block.step == kGroup<E> && i + 1 < row_tiles ? tile_begin(block.count, i + 2, row_tiles) - next : 0;
        const Sums<E> to = {out.to + r * out.stride + column, out.stride};
        const Start<E> from = slab == 0 ? Start<E>{start.from + r * start.stride + column, start.stride} : to;
        const int64_t now = smaller(tile_lines, prefetch.count);
        multiply_vectors<E>(panel.tile_width(tile), next - r, to, from, block.rows + r, next_rows, begin * block.step,
                            block.step, words, fetches.of(i), end - begin, half, Prefetch{prefetch.lines, now, now});
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
