#ifndef GRAFT_ARRAY_H
#define GRAFT_ARRAY_H

#include <stdbool.h>
#include <stdint.h>

#include "mlx/c/array.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_array What mlx-c does not tell of an array
 */
/**@{*/

/** The first element of an evaluated array, whatever its dtype; null if it is not evaluated. */
const void* graft_array_data(const mlx_array arr);

/** Whether the array is evaluated or being evaluated, that is, no longer a node to compute. */
int graft_array_is_scheduled(bool* res, const mlx_array arr);

/** Whether the array is a placeholder of a transformation that is being traced. */
int graft_array_is_tracer(bool* res, const mlx_array arr);

/** The identity of the C++ object: equal for two handles of the same array. */
int graft_array_id(uintptr_t* res, const mlx_array arr);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
