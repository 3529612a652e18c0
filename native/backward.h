// backward: grad_moments, then grad_input of a channel while it is still in the cache; each is also run alone.
#ifndef BATCHNORM_BACKWARD_H
#define BATCHNORM_BACKWARD_H

#include "channels.h"
#include "forward_rows.h"
#include "geometry.h"
#include "gradient.h"

namespace BN_ISA {

// Which steps a call asks for.
struct BackwardSteps {
  bool sums;        // take sum_dy and sum_dy_xhat
  bool given_sums;  // or read them from the call
  bool input;
};

static inline int tensors_of(const bn_call &call, BackwardSteps steps) {
  return 2 + (call.second ? 1 : 0) + (steps.input && call.output ? 1 : 0) + (steps.input && call.grad_residual ? 1 : 0);
}

struct GradientSums {
  double dy, dy_xhat;
};

// What the sums of one channel become: gradients of the parameters, and what dx subtracts.
template <class S>
static void finish_gradient(const bn_call &call, int64_t channel, GradientSums sums, bool writes, double count,
                            Numbers<S> &numbers, int64_t at) {
  const double invstd = call.invstd[channel];
  if (writes) {
    if (call.sum_dy) call.sum_dy[channel] = sums.dy;
    if (call.sum_dy_xmu) call.sum_dy_xmu[channel] = sums.dy_xhat / invstd;
    if (call.grad_weight) write_number(call.grad_weight, call.parameter_type, channel, sums.dy_xhat);
    if (call.grad_bias) write_number(call.grad_bias, call.parameter_type, channel, sums.dy);
  }
  if (!numbers.through_statistics) return numbers.set_gradient(at, 0, 0, 0);
  const double weight = call.weight ? read_number(call.weight, call.parameter_type, channel) : 1.0;
  const double divisor = count > 1 ? count : 1;
  numbers.set_gradient(at, sums.dy / divisor, sums.dy_xhat / divisor, invstd * weight);
}

static inline GradientSums given_sums(const bn_call &call, int64_t channel) {
  if (!call.sum_dy) return {0, 0};
  return {call.sum_dy[channel], call.sum_dy_xmu[channel] * call.invstd[channel]};
}

static inline double values_of_channel(const bn_call &call) {
  if (call.count) return *call.count;
  return double(valid_positions(call, Part{0, call.channels, 0, call.outer, 0, call.inner}));
}

template <class T> static const T *offset_by(const void *from, int64_t at) { return from ? (const T *)from + at : nullptr; }
template <class T> static T *offset_by(void *from, int64_t at) { return from ? (T *)from + at : nullptr; }

template <class T> static int backward_planes(const bn_call &call, BackwardSteps steps, const GradientKernels<T> &kernels) {
  using S = Compute<T>;
  const int asked = useful_threads(call);
  const int64_t group = planes_group(call, sizeof(T), tensors_of(call, steps));
  const Split split = planes_split(call, asked);
  const bool alone = split == Split::channels;
  const int64_t widest = alone ? group : call.channels;
  const int64_t each = Numbers<S>::bytes(widest) + Pieces::bytes<PairOfSums<S>>(widest);
  const int64_t for_sums = Pieces::bytes<GradientSums>(call.channels);
  Scratch scratch(asked * (each + for_sums));
  if (!scratch.memory()) return -1;
  char *const partial = scratch.memory() + asked * each;
  const double count = values_of_channel(call);
  const S parameter = S(call.act_parameter);

  on_team(asked, [&](int thread, int threads) {
    const Part part = planes_part(call, split, thread, threads);
    const int64_t length = part.inner_end - part.inner_begin;
    Pieces pieces(scratch.memory() + thread * each);
    Numbers<S> numbers(pieces, widest);
    numbers.through_statistics = call.flags & BN_BATCH_STATISTICS;
    PairOfSums<S> *sums = pieces.take<PairOfSums<S>>(widest);
    auto sums_by = [&](int who) { return (GradientSums *)(partial + who * for_sums); };
    auto from = [&](int64_t outer, int64_t c) { return (outer * call.channels + c) * call.inner + part.inner_begin; };
    auto mask = [&](int64_t outer) { return call.mask ? call.mask + outer * call.inner + part.inner_begin : nullptr; };
    for (int64_t begin = part.channel_begin; begin < part.channel_end; begin += widest) {
      const int64_t end = least(begin + widest, part.channel_end);
      for (int64_t c = begin; c < end; ++c) numbers.set(call, c, c - begin, call.mean[c], call.invstd[c]);
      if (steps.sums) {
        for (int64_t c = begin; c < end; ++c) sums[c - begin].clear();
        for (int64_t outer = part.outer_begin; outer < part.outer_end; ++outer)
          for (int64_t c = begin; c < end; ++c)
            kernels.moments_run((const T *)call.grad_output + from(outer, c), (const T *)call.x + from(outer, c),
                                offset_by<T>(call.second, from(outer, c)), mask(outer), length, numbers, c - begin,
                                parameter, sums[c - begin]);
        for (int64_t c = begin; c < end; ++c) {
          sums[c - begin].flush();
          sums_by(thread)[c] = {total(sums[c - begin].wide_a), total(sums[c - begin].wide_b)};
        }
        if (!alone) wait_for_team(threads);
      }
      for (int64_t c = begin; c < end; ++c) {
        GradientSums found = given_sums(call, c);
        if (steps.sums) {
          found = sums_by(alone ? thread : 0)[c];
          for (int who = 1; !alone && who < threads; ++who)
            found = {found.dy + sums_by(who)[c].dy, found.dy_xhat + sums_by(who)[c].dy_xhat};
        }
        finish_gradient(call, c, found, steps.sums && (alone || thread == 0), count, numbers, c - begin);
      }
      if (!steps.input) continue;
      for (int64_t outer = part.outer_end; outer-- > part.outer_begin;)  // backwards: what was read last is still near
        for (int64_t c = end; c-- > begin;)
          kernels.input_run((const T *)call.grad_output + from(outer, c), (const T *)call.x + from(outer, c),
                            offset_by<T>(call.second, from(outer, c)), mask(outer),
                            offset_by<T>(call.output, from(outer, c)), offset_by<T>(call.grad_residual, from(outer, c)),
                            length, numbers, c - begin, parameter);
    }
  });
  return 0;
}

template <class T> static int backward_rows(const bn_call &call, BackwardSteps steps, const GradientKernels<T> &kernels) {
  using S = Compute<T>;
  const int asked = useful_threads(call);
  const RowsPlan plan = rows_plan(call, sizeof(T), kLanes<S>, tensors_of(call, steps), asked);
  const int64_t for_sums = Pieces::bytes<double>(plan.width);
  Scratch scratch(2 * asked * for_sums + Numbers<S>::bytes(plan.width));
  if (!scratch.memory()) return -1;
  Pieces shared(scratch.memory() + 2 * asked * for_sums);
  Numbers<S> numbers(shared, plan.width);
  numbers.through_statistics = call.flags & BN_BATCH_STATISTICS;
  const double count = values_of_channel(call);
  const S parameter = S(call.act_parameter);

  on_team(asked, [&](int thread, int threads) {
    const RowsPart rows = rows_part(call, plan, thread, threads);
    auto sums_by = [&](int who, int which) { return (double *)(scratch.memory() + (2 * who + which) * for_sums); };
    auto set_numbers = [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        for (int64_t k = 0; k < plan.fold; ++k)
          numbers.set(call, c, k * call.channels + c, call.mean[c], call.invstd[c]);
    };
    auto sum = [&](int64_t begin, int64_t end) {
      double *dy = sums_by(thread, 0) + begin, *dy_xhat = sums_by(thread, 1) + begin;
      for (int64_t at = 0; at < (end - begin) * plan.fold; ++at) dy[at] = dy_xhat[at] = 0;
      for_rows(plan, rows, (end - begin) * plan.fold, [&](int64_t row, int64_t many, int64_t width) {
        const int64_t from = row * plan.width + begin;
        kernels.moments_rows((const T *)call.grad_output + from, (const T *)call.x + from,
                             offset_by<T>(call.second, from), offset_by<const uint8_t>(call.mask, row), many,
                             plan.width, width, numbers, begin, parameter, dy, dy_xhat);
      });
    };
    auto finish = [&](int64_t begin, int64_t end, int first, int last) {
      for (int64_t c = begin; c < end; ++c) {
        GradientSums found = given_sums(call, c);
        if (steps.sums) {
          found = {0, 0};
          for (int who = first; who < last; ++who)
            for (int64_t k = 0; k < plan.fold; ++k) {
              found.dy += sums_by(who, 0)[k * call.channels + c];
              found.dy_xhat += sums_by(who, 1)[k * call.channels + c];
            }
        }
        for (int64_t k = 0; k < plan.fold; ++k)
          finish_gradient(call, c, found, steps.sums && k == 0, count, numbers, k * call.channels + c);
      }
    };
    auto input = [&](int64_t begin, int64_t end) {
      for_rows(plan, rows, (end - begin) * plan.fold, [&](int64_t row, int64_t many, int64_t width) {
        const int64_t from = row * plan.width + begin;
        kernels.input_rows((const T *)call.grad_output + from, (const T *)call.x + from,
                           offset_by<T>(call.second, from), offset_by<const uint8_t>(call.mask, row),
                           offset_by<T>(call.output, from), offset_by<T>(call.grad_residual, from), many, plan.width,
                           width, numbers, begin, parameter);
      });
    };
    if (plan.by_columns) {
      for (int64_t begin = rows.part.channel_begin; begin < rows.part.channel_end; begin += plan.block) {
        const int64_t end = least(begin + plan.block, rows.part.channel_end);
        set_numbers(begin, end);
        if (steps.sums) sum(begin, end);
        finish(begin, end, thread, thread + 1);
        if (steps.input) input(begin, end);
      }
      return;
    }
    const int64_t begin = share(call.channels, thread, threads), end = share(call.channels, thread + 1, threads);
    set_numbers(begin, end);
    wait_for_team(threads);
    if (steps.sums) sum(0, call.channels);
    wait_for_team(threads);
    finish(begin, end, 0, threads);
    wait_for_team(threads);
    if (steps.input) input(0, call.channels);
  });
  return 0;
}

}  // namespace BN_ISA
#endif
