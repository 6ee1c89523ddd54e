//! Buffers for received blocks, used again and again.
//!
//! A block passes through three threads (read, hash, store) before its buffer is free; left to the allocator, that gives
//! the memory back to the kernel each time and pays a page fault per 4 KiB to get it again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Smaller blocks are cheaper to allocate than to keep track of.
const MIN_POOLED: usize = 64 * 1024;
/// Unused bytes kept for the next block; what comes back on top is freed.
const MAX_UNUSED: usize = 8 * 1024 * 1024;
/// A buffer more than this many times the block's size is left for larger blocks.
const MAX_WASTE: usize = 4;

/// The unused buffers of one connection. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(crate) struct BlockBuffers {
    unused: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl BlockBuffers {
    /// An empty buffer with room for `size` bytes.
    pub(crate) fn take(&self, size: usize) -> Vec<u8> {
        if size < MIN_POOLED {
            return Vec::with_capacity(size);
        }
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<u8>| (size..=size * MAX_WASTE).contains(&buffer.capacity());
        match unused.iter().position(fits) {
            Some(index) => unused.swap_remove(index),
            // Powers of two, so that blocks of about one size fit each other's buffers.
            None => Vec::with_capacity(size.next_power_of_two()),
        }
    }

    /// Makes a filled buffer shareable; it comes back here when the last user is done with it.
    pub(crate) fn share(&self, buffer: Vec<u8>) -> Bytes {
        if buffer.capacity() < MIN_POOLED {
            return buffer.into();
        }
        Bytes::from_owner(Lent {
            buffer,
            home: self.clone(),
        })
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = unused.iter().map(Vec::capacity).sum();
        if kept + buffer.capacity() <= MAX_UNUSED {
            unused.push(buffer);
        }
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: BlockBuffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn unused(buffers: &BlockBuffers) -> usize {
        buffers
            .unused
            .lock()
            .unwrap()
            .iter()
            .map(Vec::capacity)
            .sum()
    }

    #[test]
    fn given_a_shared_buffer_when_its_last_user_is_done_then_it_is_used_again() {
        let buffers = BlockBuffers::default();
        let mut buffer = buffers.take(1_000_000);
        buffer.extend_from_slice(b"warren");
        let address = buffer.as_ptr();
        let shared = buffers.share(buffer);
        let slice = shared.slice(1..3);
        drop(shared);
        assert_eq!((unused(&buffers), slice.as_ref()), (0, b"ar".as_slice()));
        drop(slice);
        let again = buffers.take(900_000);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
    }

    #[test]
    fn given_many_buffers_when_they_come_back_then_no_more_are_kept_than_allowed() {
        let buffers = BlockBuffers::default();
        let shared: Vec<Bytes> = (0..20)
            .map(|_| buffers.share(buffers.take(1024 * 1024)))
            .collect();
        drop(shared);
        assert_eq!(unused(&buffers), MAX_UNUSED);
    }

    #[test]
    fn given_a_large_unused_buffer_when_a_small_block_comes_then_it_is_left_for_large_ones() {
        let buffers = BlockBuffers::default();
        drop(buffers.share(buffers.take(4 * 1024 * 1024)));
        assert!(buffers.take(256 * 1024).capacity() < 4 * 1024 * 1024);
    }
}
