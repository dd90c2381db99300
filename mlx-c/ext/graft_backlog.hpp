/* Bounds the memory of kernels that are scheduled and have not run. */

#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

// The outputs of the kernels on one stream that have been given memory, but not been computed.
//
// MLX schedules up to a hundred operations ahead of the one that runs, and each gets the memory of
// its outputs as it is scheduled. In a training step that is a tenth of all memory at the peak. To
// have a few scheduled is enough for the stream's thread never to wait.
class Backlog {
 public:
  // The share of one kernel; it ends with the last copy of the pointer, which the task holds.
  using Ticket = std::shared_ptr<void>;

  // Waits until there is room for outputs of `bytes`. Small ones are not counted.
  static Ticket enter(int stream, size_t bytes) {
    return bytes < kSmall ? nullptr : of(stream).wait(bytes);
  }

 private:
  static constexpr size_t kSmall = 1 << 16;
  static constexpr size_t kBytes = 16 << 20;
  static constexpr size_t kKernels = 2;
  // A bound on memory is no reason to wait for ever.
  static constexpr std::chrono::seconds kPatience{10};

  static Backlog& of(int stream) {
    // Never destroyed: tasks may end after the destructors of statics have run.
    static auto* backlogs = new std::map<int, Backlog>;
    static auto* mutex = new std::mutex;
    std::lock_guard<std::mutex> lock(*mutex);
    return (*backlogs)[stream];
  }

  Ticket wait(size_t bytes) {
    std::unique_lock<std::mutex> lock(mutex_);
    room_.wait_for(lock, kPatience, [&] { return kernels_ < kKernels || bytes_ + bytes <= kBytes; });
    ++kernels_;
    bytes_ += bytes;
    lock.unlock();
    // Where this throws, it leaves first.
    return Ticket(this, [bytes](void* self) { static_cast<Backlog*>(self)->leave(bytes); });
  }

  void leave(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      --kernels_;
      bytes_ -= bytes;
    }
    room_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable room_;
  size_t kernels_ = 0;
  size_t bytes_ = 0;
};
