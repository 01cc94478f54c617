#include "memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>

#include "workspace.h"

namespace ulmfit_fast {
namespace {

class KeptMemory final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    auto* workspace = new Workspace(static_cast<int64_t>(bytes), Workspace::Use::kResult);
    return {workspace->data(), workspace, &release, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void release(void* workspace) { delete static_cast<Workspace*>(workspace); }
};

}  // namespace

at::Tensor new_tensor(at::IntArrayRef shape, const at::TensorOptions& options) {
  static KeptMemory kept_memory;
  constexpr int64_t kSmall = 1 << 20;  // malloc reuses these by itself
  const auto bytes = c10::multiply_integers(shape) * static_cast<int64_t>(options.dtype().itemsize());
  if (bytes < kSmall) return at::empty(shape, options);
  return at::detail::empty_generic(shape, &kept_memory, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   c10::typeMetaToScalarType(options.dtype()), std::nullopt);
}

}  // namespace ulmfit_fast
