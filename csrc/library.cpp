// Every op's schema, in one place. Python reaches the ops through torch.ops.
//
// A device's implementation is registered at the end of its own file: cpu/<op>.cpp, cuda/<op>.cpp. Shapes, checks and
// the meaning of arguments stand in <op>.h.
#include "tensor.h"

STABLE_TORCH_LIBRARY(ulmfit_fast, m) {
  m.def("dropconnect_mask(Tensor seed, int rows, int columns, float p) -> Tensor");
  m.def("embedding(Tensor tokens, Tensor weight, Tensor? mask) -> Tensor");
  m.def("embedding_backward(Tensor grad, Tensor tokens, Tensor? mask, int vocabulary) -> Tensor");
  m.def("locked_dropout(Tensor input, Tensor mask, Tensor batch_sizes) -> Tensor");
  m.def("add_steps(Tensor count, Tensor batch_sizes) -> Tensor");
  m.def("linear(Tensor input, Tensor weight, Tensor? bias, bool transposed) -> Tensor");
  // keep: 0 what is asked for, 1 also each step's cells and, where h is pooled, output; 2 cells alone.
  m.def(
      "forget_mult(Tensor gates, Tensor batch_sizes, Tensor c0, Tensor? total, Tensor? maximum, Tensor? argmax, "
      "Tensor? count, Tensor? pool_from, bool output_gate, int bptt, int keep) -> (Tensor output, Tensor h_n, "
      "Tensor c_n, Tensor cells, Tensor total_n, Tensor maximum_n, Tensor argmax_n)");
  // needs: gates, c0.
  m.def(
      "forget_mult_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor? grad_total_n, "
      "Tensor? grad_maximum_n, Tensor gates, Tensor batch_sizes, Tensor c0, Tensor? argmax_n, Tensor? count, "
      "Tensor? pool_from, bool output_gate, int bptt, Tensor cells, bool[2] needs) -> (Tensor grad_gates, "
      "Tensor grad_c0)");
  // loss of each row, and result = sum of row_weight * loss with its gradients; those nobody needs (input, weight,
  // bias) come back empty. Without row_weight the losses alone.
  m.def(
      "linear_cross_entropy(Tensor input, Tensor weight, Tensor? bias, Tensor target, Tensor? row_weight, "
      "int ignore_index, float label_smoothing, float gradient_threshold, bool[3] needs) -> (Tensor result, "
      "Tensor loss, Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  // keep: 0 what lstm returns, 1 also each step's cells, 2 also gates: what lstm_backward needs. The rest comes back
  // empty.
  m.def(
      "lstm(Tensor input, Tensor batch_sizes, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, "
      "Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_hr, Tensor seed, float weight_dropout, bool reverse, int bptt, "
      "int keep) -> (Tensor output, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells)");
  // needs: input, h0, weight_ih, weight_hh, bias, weight_hr; a gradient nobody needs comes back empty.
  m.def(
      "lstm_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor input, Tensor batch_sizes, "
      "Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, Tensor? weight_hr, Tensor seed, "
      "float weight_dropout, bool reverse, int bptt, Tensor output, Tensor gates, Tensor cells, bool[6] needs) -> "
      "(Tensor grad_input, Tensor grad_h0, Tensor grad_c0, Tensor grad_weight_ih, Tensor grad_weight_hh, "
      "Tensor grad_bias, Tensor grad_weight_hr)");
  // A layer's weights as the kernels of this processor multiply by them, for inputs of `dtype`: bytes for lstm_packed
  // and lstm_pool_packed of the same process, which compute what lstm and lstm_pool do, without a gradient.
  m.def("lstm_pack(Tensor weight_ih, Tensor weight_hh, Tensor? weight_hr, ScalarType dtype) -> Tensor");
  m.def(
      "lstm_packed(Tensor input, Tensor batch_sizes, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, "
      "Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_hr, Tensor packed, bool reverse, int keep) -> (Tensor output, "
      "Tensor h_n, Tensor c_n, Tensor cells)");
  m.def(
      "lstm_pool_packed(Tensor input, Tensor batch_sizes, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, "
      "Tensor? bias_ih, Tensor? bias_hh, Tensor total, Tensor maximum, Tensor argmax, Tensor count, Tensor pool_from, "
      "Tensor packed, int keep) -> (Tensor h_n, Tensor c_n, Tensor total_n, Tensor maximum_n, Tensor argmax_n, "
      "Tensor output, Tensor cells)");
  // keep: 0 no states, 1 each step's output and cells, 2 also gates.
  m.def(
      "lstm_pool(Tensor input, Tensor batch_sizes, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, "
      "Tensor? bias_ih, Tensor? bias_hh, Tensor total, Tensor maximum, Tensor argmax, Tensor count, Tensor pool_from, "
      "Tensor seed, float weight_dropout, int bptt, int keep) -> (Tensor h_n, Tensor c_n, Tensor total_n, "
      "Tensor maximum_n, Tensor argmax_n, Tensor output, Tensor gates, Tensor cells)");
  // int8 weights, each row times its scale, as the kernels of this processor multiply by them; and lstm and lstm_pool
  // with them, forward only.
  m.def("lstm_quantized_pack(Tensor weight_ih, Tensor scale_ih, Tensor weight_hh, Tensor scale_hh) -> Tensor");
  m.def(
      "lstm_quantized(Tensor input, Tensor batch_sizes, Tensor h0, Tensor c0, Tensor packed, Tensor? bias_ih, "
      "Tensor? bias_hh, bool reverse) -> (Tensor output, Tensor h_n, Tensor c_n)");
  m.def(
      "lstm_pool_quantized(Tensor input, Tensor batch_sizes, Tensor h0, Tensor c0, Tensor packed, Tensor? bias_ih, "
      "Tensor? bias_hh, Tensor total, Tensor maximum, Tensor argmax, Tensor count, Tensor pool_from) -> (Tensor h_n, "
      "Tensor c_n, Tensor total_n, Tensor maximum_n, Tensor argmax_n)");
  // argmax is the one after the call; needs and results as for lstm_backward.
  m.def(
      "lstm_pool_backward(Tensor? grad_h_n, Tensor? grad_c_n, Tensor? grad_total_n, Tensor? grad_maximum_n, "
      "Tensor input, Tensor batch_sizes, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, Tensor argmax_n, "
      "Tensor count, Tensor pool_from, Tensor seed, float weight_dropout, int bptt, Tensor output, Tensor gates, "
      "Tensor cells, bool[6] needs) -> (Tensor grad_input, Tensor grad_h0, Tensor grad_c0, Tensor grad_weight_ih, "
      "Tensor grad_weight_hh, Tensor grad_bias, Tensor grad_weight_hr)");
}
