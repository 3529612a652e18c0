// Loops over rows in which the channels lie side by side: a vector of channels at a time, two of bfloat16, of several rows
// where the chains are long.
#ifndef BATCHNORM_COLUMNS_H
#define BATCHNORM_COLUMNS_H

#include <type_traits>

#include "pairs.h"
#include "several.h"
#include "simd.h"

namespace BN_ISA {

// Rows `stride` values apart, and `width` channels of each, which lie side by side.
struct Rows {
  int64_t count, stride, width;
  bool along;  // take them one after the other
};

// Rows are worked on in blocks, a vector of channels at a time: what a kernel reads of its channels is read once a block. Of
// long rows a block takes fewer: it goes through memory in its order, and finds what it has asked for in the first-level
// cache. Of long rows from far away a block is one row: what is asked for ahead is a block as well, and of rows a power of two
// apart, which share a corner of the cache, there is no room for both.
// More rows than kMostRows must not be one block: a lane sums them before they become doubles (see TwoSums).
constexpr int64_t kMostRows = 16, kFewestRows = 4, kBytesOfBlock = 8192;
struct Block {
  int64_t rows, ahead;  // values from a row to the one to ask for meanwhile
};
template <class T> BN_INLINE Block block_of(const Rows &rows, bool along, int64_t rows_along = 1) {
  const int64_t fit = kBytesOfBlock / (rows.stride * int64_t(sizeof(T)));
  if (along) return {rows_along, (fit < rows_along ? rows_along : fit) * rows.stride};
  const int64_t size = fit < kFewestRows ? kFewestRows : fit > kMostRows ? kMostRows : fit / kFewestRows * kFewestRows;
  return {size, size * rows.stride};
}

// A column writes into each of several rows before it comes back to the first one. Past the caches go halves of lines at least:
// of quarters, more lines would be begun than a processor has room for (docs/decisions/0008-large-outputs.md).
template <class T> constexpr bool kMayStream = (kPaired<T> ? 2 : 1) * kLanes<Compute<T>> * sizeof(T) >= 32;

// What a loop gives its body where it asks for the vectors of First and for those `stride` values behind them.
template <class First> struct Stacked {
  First first;
  int64_t stride;
};
template <class T, class V, class First> BN_INLINE auto load(const T *from, Stacked<First> rows, V fill) {
  auto first = load(from, rows.first, fill), second = load(from + rows.stride, rows.first, fill);
  return Two<decltype(first)>{first, second};
}
template <class T, class V, class First> BN_INLINE void store(T *to, Two<V> v, Stacked<First> rows, bool past) {
  store(to, v.first, rows.first, past);
  store(to + rows.stride, v.second, rows.first, past);
}
template <class T, class First> BN_INLINE void prefetch(const T *at, Stacked<First> rows) {
  prefetch(at, rows.first);
  prefetch(at + rows.stride, rows.first);
}
template <class T, class Lanes> BN_INLINE void prefetch(const T *at, Lanes) { prefetch(at); }

// The numbers of channels as a loop gives it their values: of a pair first the even channels.
template <class S, class Lanes> BN_INLINE Vector<S> channels_of(const S *numbers, Lanes lanes) {
  return load(numbers, lanes, Vector<S>{});
}
template <class S> BN_INLINE Two<Vector<S>> channels_of(const S *numbers, Pair) {
  return unwoven(load(numbers), load(numbers + kLanes<S>), std::make_integer_sequence<int, kLanes<S>>{});
}
// The same numbers for each of several rows.
template <class Lanes, class N> BN_INLINE N over(Lanes, N numbers) { return numbers; }
template <class First, class N> BN_INLINE auto over(Stacked<First> rows, N numbers) {
  auto each = over(rows.first, numbers);
  return Two<decltype(each)>{each, each};
}

// sum += value, and sum += a * b, row by row.
template <class Lanes, class N> BN_INLINE void add_rows(Lanes, N &sum, N value) { sum += value; }
template <class Lanes, class N> BN_INLINE void add_rows(Lanes, N &sum, N a, N b) { sum = fma(a, b, sum); }
template <class First, class N, class W> BN_INLINE void add_rows(Stacked<First> rows, N &sum, Two<W> value) {
  add_rows(rows.first, sum, value.first);
  add_rows(rows.first, sum, value.second);
}
template <class First, class N, class W> BN_INLINE void add_rows(Stacked<First> rows, N &sum, Two<W> a, Two<W> b) {
  add_rows(rows.first, sum, a.first, b.first);
  add_rows(rows.first, sum, a.second, b.second);
}

// Call take(row, lanes) for the rows of one vector of channels, or of a pair, kAtOnce vectors at a time while they last.
template <int kAtOnce, class Lanes, class Take>
BN_INLINE void for_rows_at_once(int64_t first, int64_t last, int64_t stride, Lanes lanes, Take take) {
  constexpr int kRows = std::is_same<Lanes, Pair>::value ? kAtOnce / 2 : kAtOnce;
  int64_t row = first;
  if constexpr (kRows >= 4)
    for (; row + 4 <= last; row += 4) take(row, Stacked<Stacked<Lanes>>{{lanes, stride}, 2 * stride});
  if constexpr (kRows >= 2)
    for (; row + 2 <= last; row += 2) take(row, Stacked<Lanes>{lanes, stride});
  for (; row < last; ++row) take(row, lanes);
}
template <int, class Take>
BN_INLINE void for_rows_at_once(int64_t first, int64_t last, int64_t, Tail lanes, Take take) {
  for (int64_t row = first; row < last; ++row) take(row, lanes);
}

// Call the function that column(i, lanes) returns for rows, in blocks, with the lanes of what it takes at once: one row
// where `singly`. kTwice: it may run twice on a value, as in for_values_twice.
template <class T, bool kTwice, int kAtOnce, class Column>
BN_INLINE void for_columns(const Rows &rows, int64_t block, bool singly, Column column) {
  // Apart, or a processor that takes one row pays for the registers of four.
  auto work = [&](auto at_once) __attribute__((always_inline)) {
    for (int64_t first = 0; first < rows.count; first += block) {
      const int64_t last = rows.count - first < block ? rows.count : first + block;
      auto take = [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        for_rows_at_once<at_once.value>(first, last, rows.stride, lanes, column(i, lanes));
      };
      if constexpr (kTwice)
        for_values_twice<T, 1>(rows.width, take);
      else
        for_pairs<T>(rows.width, take);
    }
  };
  if (kAtOnce > 1 && !singly) return work(Count<kAtOnce>{});
  work(Count<1>{});
}

}  // namespace BN_ISA
#endif
