//! What the system refused when memory ran out.
//!
//! An allocation that fails ends a wasm module with a trap that says nothing: Rust's own handler has no place to print
//! to there. So the request that was refused is noted before, and can be asked for after the trap, which leaves
//! statics as they were.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator; notes the size of a request that it refuses.
pub struct Noting;

fn note(pointer: *mut u8, bytes: usize) -> *mut u8 {
    if pointer.is_null() {
        REFUSED.store(bytes, Ordering::Relaxed);
    }
    pointer
}

// SAFETY: every call goes to the system's allocator as it came; noting allocates nothing.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        note(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        note(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        note(unsafe { System.realloc(pointer, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes of the last request that [`Noting`] saw refused.
pub fn refused_bytes() -> Option<usize> {
    match REFUSED.load(Ordering::Relaxed) {
        0 => None,
        bytes => Some(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn a_refused_request_is_noted_with_its_size_and_others_are_not() {
        assert_eq!(refused_bytes(), None);
        let small = Layout::from_size_align(64, 8).unwrap();
        // SAFETY: the layout is not empty, and what comes is freed with it.
        unsafe {
            let pointer = Noting.alloc(small);
            assert!(!pointer.is_null());
            Noting.dealloc(pointer, small);
        }
        assert_eq!(refused_bytes(), None);

        // More than any address space has.
        let absurd = isize::MAX as usize - 4096;
        let layout = Layout::from_size_align(absurd, 8).unwrap();
        // SAFETY: the layout is not empty; nothing comes. Unless hidden, the compiler takes it that memory which nobody
        // uses can be had.
        let pointer = black_box(unsafe { Noting.alloc(black_box(layout)) });
        assert!(pointer.is_null());
        assert_eq!(refused_bytes(), Some(absurd));
    }
}
