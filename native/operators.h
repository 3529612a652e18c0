// The entry points of one instruction set: choose the kernels for a call's types, activation and layout.
#ifndef BATCHNORM_OPERATORS_H
#define BATCHNORM_OPERATORS_H

#include "backward.h"
#include "forward.h"
#include "forward_rows.h"
#include "math_table.h"
#include "table.h"

namespace BN_ISA {

template <class T, class Act> static NormalizeKernels<T> normalize_kernels(bool residual) {
  if (residual) return {normalize_runs<T, Act, true, false>, normalize_runs<T, Act, true, true>, normalize_rows<T, Act, true>};
  return {normalize_runs<T, Act, false, false>, normalize_runs<T, Act, false, true>, normalize_rows<T, Act, false>};
}

template <class T, class Act, bool kSecond> static GradientKernels<T> gradient_kernels() {
  return {grad_moments_runs<T, Act, kSecond>, grad_input_runs<T, Act, kSecond>,
          Act::kCheap ? nullptr : grad_input_runs_of_dy<T>, grad_moments_rows<T, Act, kSecond>,
          grad_input_rows<T, Act, kSecond>,
          Act::kCheap || sizeof(T) < 4 ? nullptr : grad_input_rows<T, Identity, false, true>};
}

// Call use(Act{}) for the activation of a code; -1 for a code that does not exist.
template <class Use> static int with_activation(int32_t act, Use use) {
  switch (act) {
    case BN_IDENTITY: return use(Identity{});
    case BN_RELU: return use(Relu{});
    case BN_RELU6: return use(Relu6{});
    case BN_LEAKY_RELU: return use(LeakyRelu{});
    case BN_SILU: return use(Silu{});
    case BN_GELU: return use(Gelu{});
    case BN_GELU_TANH: return use(GeluTanh{});
    case BN_HARDSWISH: return use(Hardswish{});
    case BN_ELU: return use(Elu{});
    default: return -1;
  }
}

template <class Use> static int with_type(int32_t type, Use use) {
  switch (type) {
    case BN_FLOAT32: return use(float{});
    case BN_FLOAT64: return use(double{});
    case BN_BFLOAT16: return use(bfloat16{});
    case BN_FLOAT16: return use(float16{});
    default: return -1;
  }
}

// Codes that are read value by value, far from where an unknown one could still be refused.
static inline bool known(const bn_call &call) {
  return call.parameter_type >= BN_FLOAT32 && call.parameter_type <= BN_FLOAT16 && call.running_type >= BN_FLOAT32 &&
         call.running_type <= BN_FLOAT16;
}

static int run_forward(const bn_call &call, ForwardSteps steps) {
  if (!known(call) || !call.x) return -1;
  if (call.channels == 0) return 0;
  return with_type(call.value_type, [&](auto value) {
    using T = decltype(value);
    return with_activation(call.act, [&](auto act) {
      NormalizeKernels<T> kernels = normalize_kernels<T, decltype(act)>(call.second);
      return call.inner == 1 ? forward_rows<T>(call, steps, kernels) : forward_planes<T>(call, steps, kernels);
    });
  });
}

static int run_backward(const bn_call &call, BackwardSteps steps) {
  // torch has tensors of zeros without memory; their pointer is NULL.
  if (!known(call) || !call.x || !call.grad_output) return -1;
  if (call.channels == 0) return 0;
  return with_type(call.value_type, [&](auto value) {
    using T = decltype(value);
    auto run = [&](const GradientKernels<T> &kernels) {
      return call.inner == 1 ? backward_rows<T>(call, steps, kernels) : backward_planes<T>(call, steps, kernels);
    };
    if (call.act == BN_RELU_OF_OUTPUT) return run(gradient_kernels<T, ReluOfOutput, true>());
    return with_activation(call.act, [&](auto act) {
      using Act = decltype(act);
      // Where the gradient does not ask for z, the residual is not read.
      if constexpr (Act::kNeedsInput)
        if (call.second) return run(gradient_kernels<T, Act, true>());
      return run(gradient_kernels<T, Act, false>());
    });
  });
}

static int moments(const bn_call *call) { return run_forward(*call, {true, false}); }
static int normalize(const bn_call *call) { return run_forward(*call, {false, true}); }
static int forward(const bn_call *call) { return run_forward(*call, {true, true}); }
static int grad_moments(const bn_call *call) { return run_backward(*call, {true, false}); }
static int grad_input(const bn_call *call) { return run_backward(*call, {false, true}); }

static int backward(const bn_call *call) {
  const bool input = call->output || call->grad_residual;
  const bool through = (call->flags & BN_BATCH_STATISTICS) && call->output;
  return run_backward(*call, {through || call->grad_weight || call->grad_bias || call->sum_dy, input});
}

}  // namespace BN_ISA
#endif
