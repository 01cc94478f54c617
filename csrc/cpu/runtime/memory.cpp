#include "memory.h"

#include <memory>

#include "workspace.h"

namespace ulmfit_fast {
namespace {

constexpr int kNan = 0xFF;  // in every byte

void release(void* /*data*/, void* workspace) {
  delete static_cast<Workspace*>(workspace);
}

Tensor allocated(Shape shape, ScalarType dtype) {
  constexpr int64_t kSmall = 1 << 20;  // malloc reuses these by itself
  const int32_t code = code_of(dtype), cpu = aoti_torch_device_type_cpu();
  const auto bytes = elements_of(shape) * static_cast<int64_t>(aoti_torch_dtype_element_size(code));
  const auto dimensions = static_cast<int64_t>(shape.size());
  const Strides strides(shape);
  AtenTensorHandle handle = nullptr;
  if (bytes < kSmall) {
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(dimensions, shape.data(), strides.data(), code, cpu, /*device_index=*/-1, &handle));
    return Tensor(handle);
  }
  auto workspace = std::make_unique<Workspace>(bytes, Workspace::Use::kResult);
  TORCH_ERROR_CODE_CHECK(torch_from_blob(workspace->data(), dimensions, shape.data(), strides.data(),
                                         /*storage_offset=*/0, code, cpu, /*device_index=*/-1, &handle,
                                         aoti_torch_layout_strided(), /*opaque_metadata=*/nullptr,
                                         /*opaque_metadata_size=*/0, &release, workspace.get()));
  workspace.release();  // the tensor's from here on
  return Tensor(handle);
}

void fill(const Tensor& tensor, int byte) {
  if (tensor.numel() > 0) std::memset(tensor.mutable_data_ptr(), byte, tensor.numel() * tensor.element_size());
}

}  // namespace

Tensor new_tensor(Shape shape, ScalarType dtype) {
  const Tensor tensor = allocated(shape, dtype);
  if (fill_new_memory.load(std::memory_order_relaxed)) fill(tensor, kNan);
  return tensor;
}

void clear(const Tensor& tensor) {
  fill(tensor, 0);
}

}  // namespace ulmfit_fast
