// The instances of the persistent kernel, and which of them a plan launches.
#include "lstm_persistent.h"
#include "lstm_persistent_kernel.cuh"

namespace ulmfit_fast::cuda {

template <typename E>
bool persistent_forward(cudaStream_t stream, const PersistentLaunch<E>& launch, const PersistentPlan& plan) {
  const auto launch_with = [&]<int unit_tiles, int row_tiles>() {
    return launch_together(stream, persistent_forward_kernel<E, unit_tiles, row_tiles, kPersistentWarps>, plan.blocks(),
                           32 * kPersistentWarps, plan.shared_bytes(), launch);
  };
  const auto with_rows = [&]<int unit_tiles>() {
    switch (plan.tiles.row_tiles) {
      case 1:
        return launch_with.template operator()<unit_tiles, 1>();
      case 2:
        return launch_with.template operator()<unit_tiles, 2>();
      case 4:
        return launch_with.template operator()<unit_tiles, 4>();
      default:
        if constexpr (PersistentTiles{unit_tiles, 8}.compiled())
          return launch_with.template operator()<unit_tiles, 8>();
        else
          return false;  // no plan has these
    }
  };
  switch (plan.tiles.unit_tiles) {
    case 1:
      return with_rows.template operator()<1>();
    case 2:
      return with_rows.template operator()<2>();
    case 3:
      return with_rows.template operator()<3>();
    case 4:
      return with_rows.template operator()<4>();
    default:
      return with_rows.template operator()<5>();
  }
}

template bool persistent_forward(cudaStream_t, const PersistentLaunch<c10::BFloat16>&, const PersistentPlan&);
template bool persistent_forward(cudaStream_t, const PersistentLaunch<c10::Half>&, const PersistentPlan&);

}  // namespace ulmfit_fast::cuda
