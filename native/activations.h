// The activations, forward on the pre-activation z and backward as grad * f'(z); the formulas are those of
// batchnorm/activations.py, and comparisons put NaN and the kinks on the side on which torch puts them.
#ifndef BATCHNORM_ACTIVATIONS_H
#define BATCHNORM_ACTIVATIONS_H

#include "math.h"
#include "simd.h"

namespace BN_ISA {

// Vectors of a long chain that stand side by side: as many as the registers hold (measured: decision 7).
constexpr int kLongChain = BN_VECTOR_BYTES == 64 ? 4 : 2;

// kNeedsInput: the backward asks for z; kFromOutput: or for the output in its place. kCheap: a few instructions.
// kAtOnce: vectors of a run that go through the forward together, where sums take two or four; kRowsAtOnce: of rows.
struct OneByOne {
  static constexpr int kAtOnce = 1;
  template <class T> static constexpr int kRowsAtOnce = 1;
};

struct Identity : OneByOne {
  static constexpr bool kNeedsInput = false, kFromOutput = false, kCheap = true;
  template <class V, class S> BN_INLINE V forward(V z, S) { return z; }
  template <class V, class S> BN_INLINE V backward(V grad, V, S) { return grad; }
};

struct Relu : OneByOne {
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = true;
  template <class V, class S> BN_INLINE V forward(V z, S) { return at_least(z, V{}); }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S) { return select(z <= S(0), V{}, grad); }
};

// Backward from the output in place of z.
struct ReluOfOutput : Relu {
  static constexpr bool kFromOutput = true;
};

struct Relu6 : OneByOne {
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = true;
  template <class V, class S> BN_INLINE V forward(V z, S) { return at_most(at_least(z, V{}), splat(S(6))); }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S) {
    return select(z <= S(0), V{}, select(z >= S(6), V{}, grad));
  }
};

struct LeakyRelu : OneByOne {
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = true;
  template <class V, class S> BN_INLINE V forward(V z, S slope) { return select(z > S(0), z, z * slope); }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S slope) {
    return select(z > S(0), grad, grad * slope);
  }
};

struct Silu {
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = false;
  static constexpr int kAtOnce = kLongChain;
  template <class T> static constexpr int kRowsAtOnce = kLongChain;
  template <class V, class S> BN_INLINE V forward(V z, S) { return z * sigmoid(z); }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S) {
    V gate = sigmoid(z);
    return grad * (gate * fma(z, S(1) - gate, splat(S(1))));
  }
};

struct Gelu {
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = false;
  static constexpr int kAtOnce = kLongChain;
  template <class T> static constexpr int kRowsAtOnce = sizeof(T) == 2 ? 2 : 1;  // of float more were slower
  template <class V, class S> BN_INLINE V forward(V z, S) { return z * normal_cdf(z); }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S) {
    return grad * fma(z, normal_pdf(z), normal_cdf(z));
  }
};

// 0.5 * (1 + tanh(u)) is sigmoid(2 u), without the cancellation on the left.
struct GeluTanh {
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = false;
  static constexpr int kAtOnce = kLongChain;
  template <class T> static constexpr int kRowsAtOnce = kLongChain;
  template <class V, class S> BN_INLINE V gate(V z, S) {
    return sigmoid(S(1.5957691216057308) * fma(S(0.044715) * z * z, z, z));
  }
  template <class V, class S> BN_INLINE V forward(V z, S parameter) { return z * gate(z, parameter); }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S parameter) {
    V open = gate(z, parameter);
    V slope = S(1.5957691216057308) * fma(S(0.134145) * z, z, splat(S(1)));
    return grad * fma(z * open * (S(1) - open), slope, open);
  }
};

struct Hardswish : OneByOne {
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = true;
  template <class V, class S> BN_INLINE V forward(V z, S) {
    V gate = at_most(at_least(z + S(3), V{}), splat(S(6)));
    return z * gate * S(1.0 / 6);
  }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S) {
    V middle = select(z < S(3), grad * fma(z, splat(S(1.0 / 3)), splat(S(0.5))), grad);
    return select(z <= S(-3), V{}, middle);
  }
};

struct Elu : OneByOne {  // more gained nothing in the forward
  static constexpr bool kNeedsInput = true, kFromOutput = false, kCheap = false;
  template <class V, class S> BN_INLINE V forward(V z, S alpha) {
    return select(z <= S(0), alpha * expm1(select(z > S(0), V{}, z)), z);
  }
  template <class V, class S> BN_INLINE V backward(V grad, V z, S alpha) {
    return select(z <= S(0), grad * alpha * exp(select(z > S(0), V{}, z)), grad);
  }
};

}  // namespace BN_ISA
#endif
