# Which GPUs the CUDA backend is compiled for: CUDA_ARCHITECTURES as CMake takes them, CUDA_ARCHITECTURES_LISTED to read.
# All that are supported and that this nvcc (CMAKE_CUDA_COMPILER_VERSION) knows; the last one also as PTX, which newer
# GPUs compile for themselves. 7.5 (Turing) is the oldest: CUDA 13 knows none before it.
if(ULMFIT_FAST_CUDA_ARCHITECTURES)
  set(CUDA_ARCHITECTURES ${ULMFIT_FAST_CUDA_ARCHITECTURES})
  foreach(architecture ${CUDA_ARCHITECTURES})
    if(architecture MATCHES "^([0-9]+)" AND CMAKE_MATCH_1 LESS 75)
      message(FATAL_ERROR "ULMFIT_FAST_CUDA_ARCHITECTURES names ${architecture}: GPUs before compute capability 7.5 are not "
                          "supported. Leave it out, or build for the CPU alone (ULMFIT_FAST_CUDA=0)")
    endif()
  endforeach()
elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)  # the first to know 10.0
  set(CUDA_ARCHITECTURES 75-real 80-real 90)
else()
  set(CUDA_ARCHITECTURES 75-real 80-real 90-real 100)
endif()
string(REPLACE "-real" "" CUDA_ARCHITECTURES_LISTED "${CUDA_ARCHITECTURES}")
string(REPLACE ";" ", " CUDA_ARCHITECTURES_LISTED "${CUDA_ARCHITECTURES_LISTED}")
