#ifndef GRAFT_FAST_H
#define GRAFT_FAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/fast.h"
#include "mlx/c/stream.h"
#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_fast What mlx-c lacks of custom kernels
 */
/**@{*/

/** How exactly a Metal kernel must compute. */
typedef enum graft_metal_math_mode_ {
  GRAFT_METAL_MATH_SAFE,
  GRAFT_METAL_MATH_RELAXED,
  GRAFT_METAL_MATH_FAST,
} graft_metal_math_mode;

/** As mlx_fast_metal_kernel_new, with compile options. */
mlx_fast_metal_kernel graft_fast_metal_kernel_new(
    const char* name,
    const mlx_vector_string input_names,
    const mlx_vector_string output_names,
    const char* source,
    const char* header,
    bool ensure_row_contiguous,
    bool atomic_outputs,
    graft_metal_math_mode math_mode);

/**
 * As mlx_fast_metal_kernel_apply, on the stream that MLX takes when none is given: the default
 * stream of the GPU, whatever the default device is.
 */
int graft_fast_metal_kernel_apply_default(
    mlx_vector_array* outputs,
    mlx_fast_metal_kernel cls,
    const mlx_vector_array inputs,
    const mlx_fast_metal_kernel_config config);

/** The type of an argument of a precompiled kernel that is no array. */
typedef enum graft_fast_scalar_type_ {
  GRAFT_FAST_SCALAR_BOOL,
  GRAFT_FAST_SCALAR_INT,
  GRAFT_FAST_SCALAR_FLOAT,
} graft_fast_scalar_type;

/** An argument of a precompiled kernel that is no array; a double holds each type exactly. */
typedef struct graft_fast_scalar_ {
  graft_fast_scalar_type type;
  double value;
} graft_fast_scalar;

/**
 * Run a CUDA kernel that was compiled to PTX or cubin. Of `config` the outputs, the grid, the
 * thread group and the initial value count.
 */
int graft_fast_precompiled_cuda_kernel(
    mlx_vector_array* outputs,
    const char* name,
    const uint8_t* compiled_source,
    size_t compiled_source_num,
    const mlx_vector_array inputs,
    const graft_fast_scalar* scalars,
    size_t scalars_num,
    const mlx_fast_cuda_kernel_config config,
    int shared_memory,
    bool ensure_row_contiguous,
    const mlx_stream s);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
