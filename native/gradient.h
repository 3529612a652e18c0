// grad_moments and grad_input: the two passes of the backward, over a run of one channel or over rows of many.
//
// `second` is the residual of the forward, or its output for ReluOfOutput.
#ifndef BATCHNORM_GRADIENT_H
#define BATCHNORM_GRADIENT_H

#include "activations.h"
#include "channels.h"
#include "columns.h"
#include "moments.h"
#include "normalize.h"
#include "pairs.h"
#include "simd.h"

namespace BN_ISA {

// The gradient before the activation.
template <class Act, bool kSecond, class W, class V, class S>
BN_INLINE W grad_pre_activation(W grad, W x, W second, V high, V scale, V shift, S parameter) {
  if constexpr (!Act::kNeedsInput) {
    return grad;
  } else if constexpr (Act::kFromOutput) {
    return Act::backward(grad, second, parameter);
  } else {
    W z = pre_activation(x, high, scale, shift);
    if (kSecond) z += second;
    return Act::backward(grad, z, parameter);
  }
}

template <class Act, bool kSecond> constexpr bool kReadsSecond = kSecond && Act::kNeedsInput;
// Without an activation the kernels do not hear of the residual, which may have a gradient all the same.
template <class Act, bool kSecond> constexpr bool kHasResidual = kSecond || !Act::kNeedsInput;

// Sums of dy and dy * xhat. A costly activation's dy stays in `keeps`, unless that is null.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) Sums grad_moments_runs(const T *grad_output, const T *x, const T *second,
                                                        const uint8_t *mask, const Runs &runs,
                                                        const Numbers<Compute<T>> &numbers, int64_t channel,
                                                        Compute<T> parameter, Compute<T> *keeps) {
  using S = Compute<T>;
  using V = Vector<S>;
  const V high = splat(numbers.high[channel]), scale = splat(numbers.scale[channel]);
  const V shift = splat(numbers.shift[channel]), invstd = splat(numbers.invstd[channel]);
  const V offset = splat(numbers.offset[channel]);
  auto ask = [&](int64_t at) __attribute__((always_inline)) {
    prefetch(x + at);
    prefetch(grad_output + at);
    if (kReadsSecond<Act, kSecond>) prefetch(second + at);
  };
  auto sum = [&](auto masked) __attribute__((always_inline)) {
    auto term = [&](int64_t at, int64_t mask_at, auto lanes, auto &a, auto &b) __attribute__((always_inline)) {
      auto value = load(x + at, lanes, high), grad = loaded(load(grad_output + at, lanes, V{}));
      decltype(value) other{};
      if constexpr (kReadsSecond<Act, kSecond>) other = load(second + at, lanes, V{});
      auto dy = grad_pre_activation<Act, kSecond>(grad, value, other, high, scale, shift, parameter);
      auto xhat = fma(value - high, invstd, offset);
      if constexpr (masked.value) {
        auto keep = valid<S>(mask + mask_at, lanes);
        dy = select(keep, dy, V{});
        xhat = select(keep, xhat, V{});
      }
      if (!Act::kCheap && keeps) keep(keeps + mask_at, dy, lanes);
      a += dy;
      b = fma(dy, xhat, b);
    };
    return sum_runs<T, Act::kCheap ? 4 : Act::kAtOnce>(runs, ask, term);
  };
  return mask ? sum(Count<1>{}) : sum(Count<0>{});
}

// dx and dy; either may be unwanted.
template <class T, class Act, bool kSecond>
static __attribute__((noinline)) void grad_input_runs(const T *grad_output, const T *x, const T *second,
                                                      const uint8_t *mask, T *grad_x, T *grad_residual,
                                                      const Runs &runs, const Numbers<Compute<T>> &numbers,
                                                      int64_t channel, Compute<T> parameter) {
  using S = Compute<T>;
  using V = Vector<S>;
  const V high = splat(numbers.high[channel]), scale = splat(numbers.scale[channel]);
  const V shift = splat(numbers.shift[channel]), invstd = splat(numbers.invstd[channel]);
  const V offset = splat(numbers.offset[channel]), slope = splat(numbers.slope[channel]);
  const V base = splat(numbers.base[channel]);
  const bool through_statistics = numbers.through_statistics, past = numbers.past_caches;
  const bool far = numbers.far && !past && grad_x;
  const Ahead ahead_of(runs, sizeof(T));
  auto work = [&](auto masked) __attribute__((always_inline)) {
    for (int64_t run = runs.count; run-- > 0;) {  // backwards: what was read last is still near
      const int64_t from = run * runs.stride, ahead = ahead_of.backwards(run);
      for_values_twice<T, Act::kAtOnce>(runs.length, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        const int64_t at = from + i;
        if (far) prefetch(grad_x + at + ahead);
        auto value = load(x + at, lanes, high), grad = loaded(load(grad_output + at, lanes, V{}));
        decltype(value) other{}, xhat{};
        if constexpr (kReadsSecond<Act, kSecond>) other = load(second + at, lanes, V{});
        auto dy = grad_pre_activation<Act, kSecond>(grad, value, other, high, scale, shift, parameter);
        if (through_statistics) xhat = fma(value - high, invstd, offset);
        auto dx = fma(fma(xhat, slope, dy), scale, base);
        if constexpr (masked.value) {
          auto keep = valid<S>(mask + run * runs.mask_stride + i, lanes);
          dy = select(keep, dy, V{});
          dx = select(keep, dx, V{});
        }
        if (kHasResidual<Act, kSecond> && grad_residual) store(grad_residual + at, dy, lanes, past);
        if (grad_x) store(grad_x + at, dx, lanes, past);
      });
    }
  };
  mask ? work(Count<1>{}) : work(Count<0>{});
}

// As grad_input_runs, from dy.
template <class T>
static __attribute__((noinline)) void grad_input_runs_of_dy(const Compute<T> *keeps, const T *x, const uint8_t *mask,
                                                            T *grad_x, T *grad_residual, const Runs &runs,
                                                            const Numbers<Compute<T>> &numbers, int64_t channel) {
  using S = Compute<T>;
  using V = Vector<S>;
  const V high = splat(numbers.high[channel]), invstd = splat(numbers.invstd[channel]);
  const V offset = splat(numbers.offset[channel]), slope = splat(numbers.slope[channel]);
  const V base = splat(numbers.base[channel]), scale = splat(numbers.scale[channel]);
  const bool through_statistics = numbers.through_statistics, past = numbers.past_caches;
  for (int64_t run = runs.count; run-- > 0;)
    for_pairs<T>(runs.length, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
      const int64_t at = run * runs.stride + i, mask_at = run * runs.mask_stride + i;
      auto dy = kept(keeps + mask_at, lanes);
      decltype(dy) xhat{};
      if (through_statistics) xhat = fma(load(x + at, lanes, high) - high, invstd, offset);
      auto dx = fma(fma(xhat, slope, dy), scale, base);
      if (mask) dx = select(valid<S>(mask + mask_at, lanes), dx, V{});
      if (grad_residual) store(grad_residual + at, dy, lanes, past);
      if (grad_x) store(grad_x + at, dx, lanes, past);
    });
}

// As grad_input_runs, over rows. kKept: grad_output is a gradient that is written here too, and holds dy.
template <class T, class Act, bool kSecond, bool kKept = false>
static __attribute__((noinline)) void grad_input_rows(const T *grad_output, const T *x, const T *second,
                                                      const uint8_t *mask, T *grad_x, T *grad_residual, const Rows &rows,
                                                      const Numbers<Compute<T>> &numbers, int64_t at,
                                                      Compute<T> parameter) {
  using S = Compute<T>;
  using V = Vector<S>;
  const bool through_statistics = numbers.through_statistics, past = kMayStream<T> && numbers.past_caches;
  const bool singly = mask || past, far = numbers.far && !past && grad_x;
  constexpr int kAtOnce = kKept ? 1 : Act::template kRowsAtOnce<T>;
  const Block block = block_of<T>(rows, past || (rows.along && kAtOnce == 1));
  const int64_t stride = rows.stride, ahead = block.ahead;
  for_columns<T, !kKept, kAtOnce>(rows, block.rows, singly, [&](int64_t i, auto whole) __attribute__((always_inline)) {
    const auto high = channels_of(numbers.high + at + i, whole), scale = channels_of(numbers.scale + at + i, whole);
    const auto shift = channels_of(numbers.shift + at + i, whole), invstd = channels_of(numbers.invstd + at + i, whole);
    const auto offset = channels_of(numbers.offset + at + i, whole), slope = channels_of(numbers.slope + at + i, whole);
    const auto base = channels_of(numbers.base + at + i, whole);
    return [=](int64_t row, auto lanes) __attribute__((always_inline)) {
      const int64_t from = row * stride + i, later = from + ahead;
      auto write = [=](auto dx, auto dy, auto lanes) __attribute__((always_inline)) {
        if (kHasResidual<Act, kSecond> && grad_residual) store(grad_residual + from, dy, lanes, past);
        if (grad_x) store(grad_x + from, dx, lanes, past);
      };
      using N = Several<V, decltype(whole)>;
      if (mask && !mask[row]) return write(N{}, N{}, whole);
      prefetch(x + later, lanes);
      prefetch(grad_output + later, lanes);
      if (far) prefetch(grad_x + later, lanes);
      const auto middle = over(lanes, high), steep = over(lanes, scale);
      auto value = load(x + from, lanes, V{}), grad = loaded(load(grad_output + from, lanes, V{}));
      decltype(value) other{}, xhat{};
      if constexpr (kReadsSecond<Act, kSecond>) {
        prefetch(second + later, lanes);
        other = load(second + from, lanes, V{});
      }
      auto dy = grad_pre_activation<Act, kSecond>(grad, value, other, middle, steep, over(lanes, shift), parameter);
      if (through_statistics) xhat = fma(value - middle, over(lanes, invstd), over(lanes, offset));
      write(fma(fma(xhat, over(lanes, slope), dy), steep, over(lanes, base)), dy, lanes);
    };
  });
}

template <class T> struct GradientKernels {
  using S = Compute<T>;
  Sums (*moments_runs)(const T *, const T *, const T *, const uint8_t *, const Runs &, const Numbers<S> &, int64_t, S,
                       S *);
  void (*input_runs)(const T *, const T *, const T *, const uint8_t *, T *, T *, const Runs &, const Numbers<S> &,
                     int64_t, S);
  void (*input_runs_of_dy)(const S *, const T *, const uint8_t *, T *, T *, const Runs &, const Numbers<S> &, int64_t);
  void (*moments_rows)(const T *, const T *, const T *, const uint8_t *, const Rows &, const Numbers<S> &, int64_t, S, T *,
                       double *, double *);
  using InputRows = void (*)(const T *, const T *, const T *, const uint8_t *, T *, T *, const Rows &, const Numbers<S> &,
                             int64_t, S);
  InputRows input_rows, input_rows_of_dy;  // the second as grad_input_rows with kKept
};

}  // namespace BN_ISA
#endif
