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
BN_INLINE void sum_rows(int64_t rows, int64_t stride, int64_t block, int64_t width, const uint8_t *mask, double *sum_a,
                        double *sum_b, Column column) {
  using S = Compute<T>;
  using V = Vector<S>;
  constexpr int W = kLanes<S>;
  constexpr bool kCheap = kAtOnce == 0 && !kPaired<T>;
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t last = least(rows, first + block);
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
        for_rows_at_once<kAtOnce>(first, last, stride, whole, [&](int64_t row, auto lanes) __attribute__((always_inline)) {
          add(row, lanes, a, b);
        });
      }
      add_lanes(sum_a + i + j, a, whole);
      add_lanes(sum_b + i + j, b, whole);
    });
  }
}

// Sums of x - rough and of its square; `rough` starts at the first of the `width` channels.
template <class T>
static __attribute__((noinline)) void moments_rows(const T *x, const uint8_t *mask, int64_t rows, int64_t stride,
                                                   int64_t width, const Compute<T> *rough, double *sum_a,
                                                   double *sum_b) {
  using S = Compute<T>;
  using V = Vector<S>;
  const int64_t block = rows_of_block(stride * int64_t(sizeof(T))), ahead = block * stride;
  sum_rows<T, 0>(rows, stride, block, width, mask, sum_a, sum_b, [&](int64_t i, auto whole) __attribute__((always_inline)) {
    const auto around = channels_of(rough + i, whole);
    return [=](int64_t row, auto lanes, auto &a, auto &b) __attribute__((always_inline)) {
      const T *at = x + row * stride + i;
      prefetch(at + ahead);
      auto apart = load(at, lanes, V{}) - around;
      a += apart;
      b = fma(apart, apart, b);
    };
  });
}

// Sums of dy and dy * xhat. A costly activation's dy stays in `keeps`, unless that is null.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) void grad_moments_rows(const T *grad_output, const T *x, const T *second,
                                                        const uint8_t *mask, int64_t rows, int64_t stride,
                                                        int64_t width, const Numbers<Compute<T>> &numbers, int64_t at,
                                                        Compute<T> parameter, T *keeps, double *sum_a, double *sum_b) {
  using S = Compute<T>;
  using V = Vector<S>;
  const int64_t block = rows_of_block(stride * int64_t(sizeof(T))), ahead = block * stride;
  constexpr int kAtOnce = Act::kCheap ? 0 : Act::template kRowsAtOnce<T>;
  sum_rows<T, kAtOnce>(rows, stride, block, width, mask, sum_a, sum_b, [&](int64_t i, auto whole) __attribute__((always_inline)) {
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
  });
}

}  // namespace BN_ISA
#endif
