#ifndef GRAFT_STREAM_H
#define GRAFT_STREAM_H

#include "mlx/c/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * \defgroup graft_stream Streams
 */
/**@{*/

/** The default stream of the default device, in one call. */
int graft_get_default_stream(mlx_stream* res);

/**
 * Have the process, when it ends, first wait up to ten seconds for what the stream computes, as it
 * does for each stream of graft_get_default_stream. MLX's threads go on while its allocator is
 * destroyed, and give memory back to it. A forked child does not wait.
 */
int graft_stream_finish_at_exit(mlx_stream stream);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
