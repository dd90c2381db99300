#ifndef GRAFT_INDICES_H
#define GRAFT_INDICES_H

#include <stddef.h>

#include "mlx/c/array.h"
#include "mlx/c/stream.h"
#include "mlx/c/vector.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_indices Indices in a graph that was not checked
 */
/**@{*/

/** What indices select. */
typedef enum graft_index_kind_ {
  /** Slices of `sizes`, each from one place of an axis on; negative places count from the end. */
  GRAFT_INDEX_SLICES,
  /** As above, of the sizes of the last dimensions of `updates`. */
  GRAFT_INDEX_UPDATED_SLICES,
  /** One place of an axis each; negative ones count from the end. */
  GRAFT_INDEX_PLACES,
  /** A slice of `sizes`, from a place of each axis on. */
  GRAFT_INDEX_SLICE,
  /** As above, of the shape of `updates`. */
  GRAFT_INDEX_UPDATED_SLICE,
  /** Matrices in the last two dimensions, counted over all others. */
  GRAFT_INDEX_MATRICES,
} graft_index_kind;

/** An array of indices that an operation takes. What belongs to another kind is null. */
typedef struct graft_index_use_ {
  graft_index_kind kind;
  mlx_array indices;
  /** What they select from. */
  mlx_array source;
  mlx_array updates;
  const int* axes;
  size_t num_axes;
  /** One for each dimension of the source. */
  const int* sizes;
  size_t num_sizes;
  /** That of the operation. */
  mlx_stream stream;
} graft_index_use;

/**
 * Give the operations between `inputs` and `outputs` other indices: what `replace` stores in `res`,
 * which is empty and may stay so. It is called for one array of indices after the other, on this
 * thread before this returns; it returns 0, or non-zero to end with a failure, and may not throw. It
 * may add to the graph, but not evaluate it. After a failure the graph is of no use.
 */
int graft_replace_indices(
    const mlx_vector_array outputs,
    const mlx_vector_array inputs,
    int (*replace)(mlx_array* res, const graft_index_use* use, void* payload),
    void* payload);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
