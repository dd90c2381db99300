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

/**
 * After an evaluation that failed: uncount the tasks that MLX counts and never ends. It counts a
 * task before it hands it to a stream, which throws if the stream has failed meanwhile. With more
 * than ten of these, after some hundreds of failures, each evaluation would wait for ever.
 *
 * With fewer it does nothing. Otherwise it takes a tenth of a second, to tell them from tasks of
 * other threads, which end.
 */
int graft_uncount_lost_tasks(void);

/**@}*/

#ifdef __cplusplus
}
#endif

#endif
