// normalize: act((x - mean) * invstd * weight + bias + residual), over a run of one channel or over rows of many.
#ifndef BATCHNORM_NORMALIZE_H
#define BATCHNORM_NORMALIZE_H

#include "activations.h"
#include "channels.h"
#include "columns.h"
#include "moments.h"
#include "pairs.h"
#include "simd.h"

namespace BN_ISA {

// Forward and backward take the pre-activation from here: the same instructions, so the same sign.
template <class W, class V> BN_INLINE W pre_activation(W x, V high, V scale, V shift) { return fma(x - high, scale, shift); }

// The runs of one channel after its moments, or with kInOrder runs of as many channels, in the order of memory.
template <class T, class Act, bool kResidual, bool kInOrder>
static __attribute__((noinline)) void normalize_runs(const T *x, const T *residual, const uint8_t *mask, T *y,
                                                     const Runs &runs, const Numbers<Compute<T>> &numbers, int64_t at,
                                                     Compute<T> parameter) {
  using S = Compute<T>;
  using V = Vector<S>;
  const bool past = numbers.past_caches, far = !kInOrder && numbers.far && !past;
  const Ahead ahead_of(runs, sizeof(T));
  auto work = [&](auto masked) __attribute__((always_inline)) {
    for (int64_t done = 0; done < runs.count; ++done) {
      const int64_t run = kInOrder ? done : runs.count - 1 - done;  // backwards: what was read last is still near
      const int64_t channel = kInOrder ? at + run : at;
      const V high = splat(numbers.high[channel]), scale = splat(numbers.scale[channel]);
      const V shift = splat(numbers.shift[channel]);
      const int64_t from = run * runs.stride, ahead = ahead_of.backwards(run);
      for_values_twice<T, Act::kAtOnce>(runs.length, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
        if (far) prefetch(y + from + i + ahead);
        auto z = pre_activation(load(x + from + i, lanes, high), high, scale, shift);
        if constexpr (kResidual) z += load(residual + from + i, lanes, V{});
        auto out = Act::forward(z, parameter);
        if constexpr (masked.value) out = select(valid<S>(mask + run * runs.mask_stride + i, lanes), out, V{});
        store(y + from + i, out, lanes, past);
      });
    }
  };
  mask ? work(Count<1>{}) : work(Count<0>{});
}

// The same over rows.
template <class T, class Act, bool kResidual>
static __attribute__((noinline)) void normalize_rows(const T *x, const T *residual, const uint8_t *mask, T *y,
                                                     const Rows &rows, const Numbers<Compute<T>> &numbers, int64_t at,
                                                     Compute<T> parameter) {
  using S = Compute<T>;
  using V = Vector<S>;
  const bool past = kMayStream<T> && numbers.past_caches, far = numbers.far && !past;
  constexpr int kAtOnce = Act::template kRowsAtOnce<T>;
  const Block block = block_of<T>(rows, rows.along && kAtOnce == 1);
  const int64_t stride = rows.stride, ahead = block.ahead;
  const bool singly = mask || past;  // a mask is asked of each row, and past the caches several rows at once are slower
  for_columns<T, true, kAtOnce>(rows, block.rows, singly, [&](int64_t i, auto whole) __attribute__((always_inline)) {
    const auto high = channels_of(numbers.high + at + i, whole), scale = channels_of(numbers.scale + at + i, whole);
    const auto shift = channels_of(numbers.shift + at + i, whole);
    return [=](int64_t row, auto lanes) __attribute__((always_inline)) {
      const int64_t from = row * stride + i, later = from + ahead;
      if (mask && !mask[row]) return store(y + from, Several<V, decltype(whole)>{}, whole, past);
      prefetch(x + later, lanes);
      if (far) prefetch(y + later, lanes);
      if (kResidual) prefetch(residual + later, lanes);
      auto z = pre_activation(load(x + from, lanes, V{}), over(lanes, high), over(lanes, scale), over(lanes, shift));
      if constexpr (kResidual) z += load(residual + from, lanes, V{});
      store(y + from, Act::forward(z, parameter), lanes, past);
    };
  });
}

template <class T> struct NormalizeKernels {
  using OverRuns = void (*)(const T *, const T *, const uint8_t *, T *, const Runs &, const Numbers<Compute<T>> &,
                            int64_t, Compute<T>);
  OverRuns runs, in_order;
  void (*rows)(const T *, const T *, const uint8_t *, T *, const Rows &, const Numbers<Compute<T>> &, int64_t,
               Compute<T>);
};

}  // namespace BN_ISA
#endif
