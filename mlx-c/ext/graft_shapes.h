#ifndef GRAFT_SHAPES_H
#define GRAFT_SHAPES_H

#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_shapes Shapes of a graph that was not checked
 */
/**@{*/

/**
 * Fails unless the operations between `inputs` and `outputs` can take the shapes they have. A
 * shapeless trace asks its operations for their outputs and for nothing else, as the arguments were
 * checked with other shapes; kernels index memory by them.
 */
int graft_check_shapes(const mlx_vector_array outputs, const mlx_vector_array inputs);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
