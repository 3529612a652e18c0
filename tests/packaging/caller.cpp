// Calls the library as any program could, without Python and torch, and compares with plain loops in double:
// act((x - mean) * invstd * weight + bias) forward and backward, with every instruction set this processor has.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "batchnorm.h"

using Values = std::vector<double>;

struct Case {
  int64_t outer, channels, inner;
  int32_t act;
  double mean; // of x, in standard deviations
  int32_t threads;
};

static double sigmoid(double z) { return 1 / (1 + exp(-z)); }
static double forward(int32_t act, double z) { return act == BN_RELU ? (z > 0 ? z : 0) : z * sigmoid(z); }
static double slope(int32_t act, double z) {
  return act == BN_RELU ? z > 0 : sigmoid(z) * (1 + z * (1 - sigmoid(z)));
}

static double largest(const float *ours, const Values &theirs) {
  double error = 0;
  for (size_t i = 0; i < theirs.size(); ++i) {
    const double e = fabs(ours[i] - theirs[i]);
    if (!(e <= error)) error = e; // NaN counts
  }
  return error;
}

static double run(const Case &k) {
  const int64_t n = k.outer * k.channels * k.inner;
  std::vector<float> x(n), dy(n), y(n), dx(n), weight(k.channels), bias(k.channels), dw(k.channels), db(k.channels);
  std::vector<float> running_mean(k.channels, 0.f), running_var(k.channels, 1.f);
  srand(7);
  auto uniform = [] { return 2.0 * rand() / RAND_MAX - 1; };
  for (auto &v : x) v = float(k.mean + 1.7 * uniform());
  for (auto &v : dy) v = float(uniform());
  for (auto &v : weight) v = float(1 + 0.5 * uniform());
  for (auto &v : bias) v = float(uniform());
  const double eps = 1e-5, count = double(k.outer * k.inner);

  // Where value i of channel c lies.
  auto at = [&](int64_t c, int64_t i) { return (i / k.inner * k.channels + c) * k.inner + i % k.inner; };
  Values want_y(n), want_dx(n), want_dw(k.channels), want_db(k.channels), want_mean(k.channels), want_var(k.channels);
  for (int64_t c = 0; c < k.channels; ++c) {
    double mean = 0, var = 0;
    for (int64_t i = 0; i < count; ++i) mean += x[at(c, i)] / count;
    for (int64_t i = 0; i < count; ++i) var += (x[at(c, i)] - mean) * (x[at(c, i)] - mean) / count;
    const double invstd = 1 / sqrt(var + eps);
    for (int64_t i = 0; i < count; ++i) {
      const double xhat = (x[at(c, i)] - mean) * invstd, z = xhat * weight[c] + bias[c];
      want_y[at(c, i)] = forward(k.act, z);
      const double dz = dy[at(c, i)] * slope(k.act, z);
      want_db[c] += dz;
      want_dw[c] += dz * xhat;
    }
    for (int64_t i = 0; i < count; ++i) {
      const double xhat = (x[at(c, i)] - mean) * invstd, z = xhat * weight[c] + bias[c];
      const double dz = dy[at(c, i)] * slope(k.act, z);
      want_dx[at(c, i)] = (dz - want_db[c] / count - xhat * want_dw[c] / count) * invstd * weight[c];
    }
    want_mean[c] = 0.1 * mean;
    want_var[c] = 0.9 + 0.1 * var * count / (count - 1);
  }

  Values mean(k.channels), var(k.channels), invstd(k.channels), sum_dy(k.channels), sum_dy_xmu(k.channels);
  double counted = 0;
  int64_t batches = 0;
  bn_call call;
  memset(&call, 0, sizeof call);
  call.outer = k.outer, call.channels = k.channels, call.inner = k.inner;
  call.x = x.data(), call.weight = weight.data(), call.bias = bias.data(), call.output = y.data();
  call.mean = mean.data(), call.var = var.data(), call.invstd = invstd.data(), call.count = &counted;
  call.running_mean = running_mean.data(), call.running_var = running_var.data(), call.num_batches_tracked = &batches;
  call.eps = eps, call.momentum = 0.1, call.act = k.act, call.threads = k.threads;
  call.value_type = call.parameter_type = call.running_type = BN_FLOAT32;
  if (bn_forward(&call) != 0) return INFINITY;
  double error = largest(y.data(), want_y);
  error = fmax(error, largest(running_mean.data(), want_mean) / fmax(1, fabs(k.mean)));
  error = fmax(error, largest(running_var.data(), want_var));
  if (counted != count || batches != 1) return INFINITY;

  call.running_mean = call.running_var = nullptr, call.num_batches_tracked = nullptr;
  call.grad_output = dy.data(), call.output = dx.data(), call.flags = BN_BATCH_STATISTICS;
  call.sum_dy = sum_dy.data(), call.sum_dy_xmu = sum_dy_xmu.data();
  call.grad_weight = dw.data(), call.grad_bias = db.data();
  if (bn_backward(&call) != 0) return INFINITY;
  error = fmax(error, largest(dx.data(), want_dx));
  return fmax(error, fmax(largest(dw.data(), want_dw), largest(db.data(), want_db)) / sqrt(count));
}

int main() {
  const Case cases[] = {{4, 3, 35, BN_RELU, 0, 2},  {64, 5, 1, BN_RELU, 3, 1},  {33, 70, 1, BN_SILU, 0, 2},
                        {2, 2, 4099, BN_SILU, 1, 2}, {3, 1, 700, BN_RELU, 1e4, 2}, {1030, 8, 1, BN_SILU, 1e4, 2}};
  if (bn_abi() != BN_ABI) return printf("built for another interface\n"), 1;
  int failed = 0;
  const std::string all = bn_isas();
  for (size_t from = 0; from < all.size();) {
    const size_t to = all.find(',', from) == std::string::npos ? all.size() : all.find(',', from);
    const std::string isa = all.substr(from, to - from);
    from = to + 1;
    double error = bn_use_isa(isa.c_str()) == 0 && isa == bn_isa() ? 0 : INFINITY;
    for (const Case &k : cases) error = fmax(error, run(k));
    const bool good = error < 1e-5;
    failed += !good;
    printf("%s %s, largest error %.1e\n", isa.c_str(), good ? "ok" : "WRONG", error);
  }
  if (bn_use_isa("no such") == 0) return printf("an unknown instruction set was accepted\n"), 1;
  return failed;
}
