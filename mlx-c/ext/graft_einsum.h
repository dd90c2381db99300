#ifndef GRAFT_EINSUM_H
#define GRAFT_EINSUM_H

#include "mlx/c/string.h"
#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_einsum The order in which an Einstein summation contracts
 */
/**@{*/

/**
 * The contractions that `mlx_einsum` does, in order: the positions of the operands of each, one
 * contraction after another, and how many operands each has. `summary` tells the costs.
 */
int graft_einsum_path(
    mlx_vector_int* positions,
    mlx_vector_int* counts,
    mlx_string* summary,
    const char* subscripts,
    const mlx_vector_array operands);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
