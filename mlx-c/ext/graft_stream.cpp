#include "graft_stream.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include <unistd.h>

#include "mlx/allocator.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/scheduler.h"

namespace {

namespace mx = mlx::core;

// The streams of processors that the end of this process waits for.
struct Watched {
  std::mutex mutex;
  std::set<mx::Stream> streams;
  pid_t process = getpid();
};

// Never destroyed: threads may go on to the very end.
Watched& watched() {
  static auto* watched = new Watched;
  return *watched;
}

// Streams that have not come to their end. Their tasks share it, as they may end later.
struct Running {
  std::mutex mutex;
  std::condition_variable ended;
  size_t count;
};

void finish() {
  auto& known = watched();
  // A forked child has none of the threads.
  if (getpid() != known.process) {
    return;
  }
  std::set<mx::Stream> streams;
  {
    std::lock_guard<std::mutex> lock(known.mutex);
    streams = known.streams;
  }
  auto running = std::make_shared<Running>();
  running->count = streams.size();
  auto end = [running] {
    std::lock_guard<std::mutex> lock(running->mutex);
    --running->count;
    running->ended.notify_all();
  };
  for (auto stream : streams) {
    try {
      mx::scheduler::enqueue(stream, end);
    } catch (...) {
      // The thread of the stream has ended with the one that it belonged to.
      end();
    }
  }
  std::unique_lock<std::mutex> waiting(running->mutex);
  running->ended.wait_for(
      waiting, std::chrono::seconds(10), [&] { return running->count == 0; });
}

void finish_at_exit(mx::Stream stream) {
  thread_local int last = -1;
  if (stream.index == last || stream.device != mx::Device::cpu) {
    return;
  }
  auto& known = watched();
  std::lock_guard<std::mutex> lock(known.mutex);
  if (known.streams.empty()) {
    // What is made first is destroyed last.
    mx::allocator::allocator();
    std::atexit(finish);
  }
  known.streams.insert(stream);
  last = stream.index;
}

// How many tasks MLX lets wait before an evaluation waits too: MAX_ACTIVE_TASKS of transforms.cpp.
constexpr int kMostTasks = 10;

void uncount_lost_tasks() {
  // Two threads would both uncount the same tasks. Never destroyed, as above.
  static auto* mutex = new std::mutex;
  std::lock_guard<std::mutex> lock(*mutex);
  auto& scheduler = mx::scheduler::scheduler();
  int lost = scheduler.n_active_tasks();
  for (int i = 0; i < 20 && lost > kMostTasks; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    lost = std::min(lost, scheduler.n_active_tasks());
  }
  if (lost <= kMostTasks) {
    return;
  }
  // Some of them may be of a thread that was busy all the time: then the count is too low when they
  // end, and MLX lets as many more wait.
  auto any = mx::default_stream(mx::Device::cpu);
  for (; lost > 0; --lost) {
    scheduler.notify_task_completion(any);
  }
}

} // namespace

extern "C" int graft_get_default_stream(mlx_stream* res) {
  try {
    auto stream = mx::default_stream(mx::default_device());
    finish_at_exit(stream);
    mlx_stream_set_(*res, stream);
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_stream_finish_at_exit(mlx_stream stream) {
  try {
    finish_at_exit(mlx_stream_get_(stream));
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}

extern "C" int graft_uncount_lost_tasks(void) {
  try {
    uncount_lost_tasks();
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
  return 0;
}
