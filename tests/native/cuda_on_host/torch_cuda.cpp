// What the ops ask of libtorch_cuda, which a CPU build of torch has not: no device but the CPU, its products.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

Tensor borrowed(AtenTensorHandle handle) {
  AtenTensorHandle copy = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(handle, &copy));
  return Tensor(copy);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void cuda_on_host_counts(int64_t* launches, int64_t* products) {
  *launches = cuda_on_host::counts.launches;
  *products = cuda_on_host::counts.products;
}

extern "C" __attribute__((visibility("default"))) void cuda_on_host_set_without_kernels(int capability) {
  cuda_on_host::without_kernels = capability;
}

extern "C" __attribute__((visibility("default"))) void cuda_on_host_set_fault(int fault) {
  cuda_on_host::fault = fault;
}

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  return TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return TORCH_SUCCESS;
}

AOTITorchError aoti_torch_cuda_mm_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b) {
  ++cuda_on_host::counts.products;
  const ScalarType of = borrowed(out).scalar_type();
  if (of == ScalarType::Half || of == ScalarType::BFloat16) {
    std::fprintf(stderr, "a product that cuBLAS may sum in half precision\n");
    return AOTI_TORCH_FAILURE;
  }
  return aoti_torch_cpu_mm_out(out, a, b);
}

// Float32 sums and result of narrower elements.
AOTITorchError aoti_torch_cuda_mm_dtype_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b,
                                            int32_t code) {
  ++cuda_on_host::counts.products;
  const Tensor left = borrowed(a), right = borrowed(b);
  const bool half = left.scalar_type() == ScalarType::Half || left.scalar_type() == ScalarType::BFloat16;
  if (left.scalar_type() != right.scalar_type() || !half || code != aoti_torch_dtype_float32())
    return AOTI_TORCH_FAILURE;  // CUDA has no such product
  const Tensor wide_left = torch::stable::to(left, ScalarType::Float);
  const Tensor wide_right = torch::stable::to(right, ScalarType::Float);
  return aoti_torch_cpu_mm_out(out, wide_left.get(), wide_right.get());
}
