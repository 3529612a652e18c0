/* The C interface of the CPU kernels: raw pointers and sizes, no PyTorch.
 *
 * Every function takes one `bn_call`, so that a caller packs one block of bytes instead of converting thirty
 * arguments, and returns 0, or -1 if a code in it is unknown, x or grad_output is NULL where it is read, or memory
 * for scratch is missing. Tensors are dense and seen as (outer, channels, inner): NCHW is (N, C, H*W), channels_last
 * is (N*H*W, C, 1).
 */
#ifndef BATCHNORM_H
#define BATCHNORM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BN_ABI 2 /* changes whenever this file changes what a caller must do; the binding refuses another */

enum { BN_FLOAT32, BN_FLOAT64, BN_BFLOAT16, BN_FLOAT16 };

/* BN_RELU_OF_OUTPUT: backward only; the activation is relu and `second` holds the forward's output. */
enum {
  BN_IDENTITY, BN_RELU, BN_RELU6, BN_LEAKY_RELU, BN_SILU, BN_GELU, BN_GELU_TANH, BN_HARDSWISH, BN_ELU,
  BN_RELU_OF_OUTPUT
};

enum {
  BN_BATCH_STATISTICS = 1, /* backward: gradients flow through mean and invstd (training) */
  BN_CUMULATIVE = 2        /* forward: the weight of the new batch is 1 / num_batches_tracked */
};

typedef struct bn_call {
  int64_t outer, channels, inner;
  const void *x;            /* value type */
  const void *second;       /* residual, value type; or the output, see BN_RELU_OF_OUTPUT; or NULL */
  const void *grad_output;  /* value type */
  const uint8_t *mask;      /* (outer, inner), 0 or 1; NULL: all valid */
  const void *weight;       /* (channels,) parameter type, or NULL */
  const void *bias;         /* (channels,) parameter type, or NULL */
  void *output;             /* y, or the gradient of x; NULL: not wanted */
  void *grad_residual;      /* value type, or NULL */
  double *mean;             /* (channels,) */
  double *var;              /* (channels,) biased */
  double *invstd;           /* (channels,) */
  double *count;            /* one number: valid values a channel */
  double *sum_dy;           /* (channels,) */
  double *sum_dy_xmu;       /* (channels,) */
  void *grad_weight;        /* (channels,) parameter type, or NULL */
  void *grad_bias;          /* (channels,) parameter type, or NULL */
  void *running_mean;       /* (channels,) running type, or NULL: nothing is tracked */
  void *running_var;        /* (channels,) running type, or NULL */
  int64_t *num_batches_tracked; /* or NULL */
  double eps;
  double momentum;
  double act_parameter;
  int32_t value_type, parameter_type, running_type;
  int32_t act;
  int32_t flags;
  int32_t threads;
} bn_call;

/* x, mask -> mean, var, count */
int bn_moments(const bn_call *call);
/* x, second, mask, weight, bias, mean, invstd, act -> output */
int bn_normalize(const bn_call *call);
/* grad_output, x, second, mask, weight, bias, mean, invstd, act -> sum_dy, sum_dy_xmu */
int bn_grad_moments(const bn_call *call);
/* the same, and with BN_BATCH_STATISTICS sum_dy, sum_dy_xmu, count -> output (gradient of x), grad_residual */
int bn_grad_input(const bn_call *call);
/* moments, invstd from eps, running statistics and counter, normalize: a channel is read from memory once.
 * x, second, mask, weight, bias, eps, act -> mean, var, invstd, count, output, running_*, num_batches_tracked */
int bn_forward(const bn_call *call);
/* mean and invstd from running_mean, running_var and eps, normalize.
 * x, second, mask, weight, bias, running_*, eps, act -> mean, invstd, output */
int bn_evaluate(const bn_call *call);
/* grad_moments and grad_input, and the parameters' gradients.
 * -> output, grad_residual, grad_weight, grad_bias; sum_dy and sum_dy_xmu too where they are not NULL */
int bn_backward(const bn_call *call);

/* One of exp, expm1, sigmoid, normal_cdf, normal_pdf on n values of the value type, for tests of their accuracy. */
int bn_math(const char *name, int32_t value_type, const void *x, void *y, int64_t n);

/* "avx512", "avx2", "baseline" or "neon": what the calls above use. */
const char *bn_isa(void);
/* Choose another; 0, or -1 if this processor or this build does not have it. Not while a call is running. */
int bn_use_isa(const char *name);
/* Names of the instruction sets in this build that this processor has, best first, separated by commas. */
const char *bn_isas(void);
int bn_abi(void);
/* How many threads the OpenMP runtime would give a parallel region that does not ask for a number. */
int bn_max_threads(void);
/* Ask the kernel to back `bytes` from `address` with huge pages; returns 0, or -1 where that does not exist. */
int bn_advise_huge_pages(void *address, int64_t bytes);

/* Memory for large outputs, kept mapped between calls (memory.cpp). Python's PyCapsule_New, PyCapsule_IsValid,
 * PyCapsule_GetPointer and PyErr_NoMemory come from the caller: nothing here links to Python. */
typedef struct bn_capsules {
  void *(*create)(void *pointer, const char *name, void (*destructor)(void *capsule));
  int (*is_valid)(void *capsule, const char *name);
  void *(*get_pointer)(void *capsule, const char *name);
  void *(*no_memory)(void);
} bn_capsules;
/* Before the other three: how many bytes may stay mapped that no tensor uses. Returns 0, or an error number. */
int bn_keep(const bn_capsules *capsules, int64_t keep_bytes);
/* A new DLPack capsule over uninitialised memory, for a caller that holds Python's lock; `bytes` is what shape and
 * strides span, dims at most 8. NULL: MemoryError is set, which ctypes looks for (NULL alone crashes it). */
void *bn_empty(const int64_t *shape_and_strides, int32_t dims, int32_t value_type, int64_t bytes);
/* Unmap the memory that has been idle longest until at most `keep_bytes` are; returns how many are. */
int64_t bn_trim(int64_t keep_bytes);
/* All that is mapped, idle or in tensors. */
int64_t bn_mapped_bytes(void);

#ifdef __cplusplus
}
#endif
#endif
