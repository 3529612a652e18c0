// Two sums a channel over rows in which the channels lie side by side, for moments and grad_moments.
#ifndef BATCHNORM_ROWS_H
#define BATCHNORM_ROWS_H

#include "channels.h"
#include "columns.h"
#include "gradient.h"
#include "moments.h"
#include "simd.h"

namespace BN_ISA {

BN_INLINE void add_lanes(double *to, vdouble v, Whole) { store(to, load(to) + v); }
BN_INLINE void add_lanes(double *to, vfloat v, Whole) {
  vdouble wide[2] = {load(to), load(to + kLanes<double>)};
  add_to(wide, v);
  store(to, wide[0]);
  store(to + kLanes<double>, wide[1]);
}
BN_INLINE void add_lanes(double *to, Two<vfloat> v, Pair) {
  const Two<vfloat> side_by_side = woven(v, std::make_integer_sequence<int, kLanes<float>>{});
  add_lanes(to, side_by_side.first, Whole{});
  add_lanes(to + kLanes<float>, side_by_side.second, Whole{});
}
template <class V> BN_INLINE void add_lanes(double *to, V v, Tail tail) {
  for (int i = 0; i < tail.lanes; ++i) to[i] += double(v[i]);
}

// Add to sum_a and sum_b what the functions column(i, lanes) sum of the rows: add(row, lanes, a, b), which keeps what it
// reads of its channels in registers. Cheap ones run two vectors of channels at once, which keeps the adders busy, costly ones kAtOnce
// rows.
template <class T, int kAtOnce, class Column>
BN_INLINE void sum_rows(const Rows &rows, int64_t block, const uint8_t *mask, double *sum_a, double *sum_b, Column column) {
  using S = Compute<T>;
  using V = Vector<S>;
  constexpr int W = kLanes<S>;
  constexpr bool kCheap = kAtOnce == 0 && !kPaired<T>;
  const int64_t width = rows.width;
  for (int64_t first = 0; first < rows.count; first += block) {
    const int64_t last = least(rows.count, first + block);
    int64_t i = 0;
    for (; kCheap && i + 2 * W <= width; i += 2 * W) {
      const auto add_left = column(i, Whole{}), add_right = column(i + W, Whole{});
      V a_left{}, b_left{}, a_right{}, b_right{};
      for (int64_t row = first; row < last; ++row) {
        if (mask && !mask[row]) continue;
        add_left(row, Whole{}, a_left, b_left);
        add_right(row, Whole{}, a_right, b_right);
      }
      add_lanes(sum_a + i, a_left, Whole{});
      add_lanes(sum_b + i, b_left, Whole{});
      add_lanes(sum_a + i + W, a_right, Whole{});
      add_lanes(sum_b + i + W, b_right, Whole{});
    }
    for_pairs<T>(width - i, [&](int64_t j, auto whole) __attribute__((always_inline)) {
      const auto add = column(i + j, whole);
      Several<V, decltype(whole)> a{}, b{};
      if (mask) {
        for (int64_t row = first; row < last; ++row)
          if (mask[row]) add(row, whole, a, b);
      } else {
        for_rows_at_once<kAtOnce>(first, last, rows.stride, whole, [&](int64_t row, auto lanes) __attribute__((always_inline)) {
          add(row, lanes, a, b);
        });
      }
      add_lanes(sum_a + i + j, a, whole);
      add_lanes(sum_b + i + j, b, whole);
    });
  }
}

// The same along the rows, two at a time: what they sum waits in memory until kMostRows of them become doubles. Without a mask.
constexpr int64_t kRowsAlong = 2;
template <class T, class Column>
BN_INLINE void sum_along(const Rows &rows, double *sum_a, double *sum_b, Column column) {
  using S = Compute<T>;
  using V = Vector<S>;
  constexpr int64_t kMostWidth = 1024;  // sums and what is read stay in the first-level cache
  alignas(BN_VECTOR_BYTES) S waits_a[kMostWidth], waits_b[kMostWidth];
  for (int64_t left = 0; left < rows.width; left += kMostWidth)
    for (int64_t first = 0; first < rows.count; first += kMostRows) {
      const int64_t last = least(rows.count, first + kMostRows);
      for (int64_t row = first; row < last; row += kRowsAlong) {
        const int64_t end = least(last, row + kRowsAlong);
        for_pairs<T>(least(kMostWidth, rows.width - left), [&](int64_t i, auto whole) __attribute__((always_inline)) {
          const auto add = column(left + i, whole);
          Several<V, decltype(whole)> a{}, b{};
          if (row > first) a = kept(waits_a + i, whole), b = kept(waits_b + i, whole);
          for (int64_t each = row; each < end; ++each) add(each, whole, a, b);
          if (end == last) {
            add_lanes(sum_a + left + i, a, whole);
            add_lanes(sum_b + left + i, b, whole);
          } else {
            keep(waits_a + i, a, whole);
            keep(waits_b + i, b, whole);
          }
        });
      }
    }
}

// Sums of x - rough and of its square; `rough` starts at the first of the rows' channels.
template <class T>
static __attribute__((noinline)) void moments_rows(const T *x, const uint8_t *mask, const Rows &rows,
                                                   const Compute<T> *rough, double *sum_a, double *sum_b) {
  using S = Compute<T>;
  using V = Vector<S>;
  const bool along = rows.along && !mask;
  const Block block = block_of<T>(rows, along, kRowsAlong);
  const int64_t stride = rows.stride, ahead = block.ahead;
  auto column = [&](int64_t i, auto whole) __attribute__((always_inline)) {
    const auto around = channels_of(rough + i, whole);
    return [=](int64_t row, auto lanes, auto &a, auto &b) __attribute__((always_inline)) {
      const T *at = x + row * stride + i;
      prefetch(at + ahead);
      auto apart = load(at, lanes, V{}) - around;
      a += apart;
      b = fma(apart, apart, b);
    };
  };
  if (along) return sum_along<T>(rows, sum_a, sum_b, column);
  sum_rows<T, 0>(rows, block.rows, mask, sum_a, sum_b, column);
}

// Sums of dy and dy * xhat. A costly activation's dy stays in `keeps`, unless that is null.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) void grad_moments_rows(const T *grad_output, const T *x, const T *second,
                                                        const uint8_t *mask, const Rows &rows,
                                                        const Numbers<Compute<T>> &numbers, int64_t at,
                                                        Compute<T> parameter, T *keeps, double *sum_a, double *sum_b) {
  using S = Compute<T>;
  using V = Vector<S>;
  constexpr int kAtOnce = Act::kCheap ? 0 : Act::template kRowsAtOnce<T>;
  const bool along = Act::kCheap && rows.along && !mask;
  const Block block = block_of<T>(rows, along, kRowsAlong);
  const int64_t stride = rows.stride, ahead = block.ahead;
  auto column = [&](int64_t i, auto whole) __attribute__((always_inline)) {
    const auto high = channels_of(numbers.high + at + i, whole), scale = channels_of(numbers.scale + at + i, whole);
    const auto shift = channels_of(numbers.shift + at + i, whole), invstd = channels_of(numbers.invstd + at + i, whole);
    const auto offset = channels_of(numbers.offset + at + i, whole);
    return [=](int64_t row, auto lanes, auto &a, auto &b) __attribute__((always_inline)) {
      const int64_t from = row * stride + i, later = from + ahead;
      prefetch(x + later, lanes);
      prefetch(grad_output + later, lanes);
      const auto middle = over(lanes, high);
      auto value = load(x + from, lanes, V{}), grad = loaded(load(grad_output + from, lanes, V{}));
      decltype(value) other{};
      if constexpr (kReadsSecond<Act, kSecond>) {
        prefetch(second + later, lanes);
        other = load(second + from, lanes, V{});
      }
      auto dy = grad_pre_activation<Act, kSecond>(grad, value, other, middle, over(lanes, scale), over(lanes, shift), parameter);
      if (!Act::kCheap && keeps) store(keeps + from, dy, lanes, false);
      add_rows(lanes, a, dy);
      add_rows(lanes, b, dy, fma(value - middle, over(lanes, invstd), over(lanes, offset)));
    };
  };
  if constexpr (Act::kCheap)
    if (along) return sum_along<T>(rows, sum_a, sum_b, column);
  sum_rows<T, kAtOnce>(rows, block.rows, mask, sum_a, sum_b, column);
}

}  // namespace BN_ISA
#endif
