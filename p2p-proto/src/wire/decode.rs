//! From a stream of bytes, cut anywhere, to frames.

use std::fmt;

use bytes::{Buf, BytesMut};

use crate::frame::{Chunk, Frame, LONGEST_FRAME, Repeat, Run};

use super::reader::Reader;
use super::{CHUNKS_PER_FRAME, RANGES_PER_FRAME, REPEATS_PER_FRAME, WireError, parse, size};

/// Bytes of room that an empty decoder keeps at most.
const KEPT: usize = 4 * LONGEST_FRAME;
/// Ranges for which room is kept for later frames, over all lists of them.
const SPARE_RANGES: usize = 2 * LONGEST_FRAME / size::RANGE;

/// Takes the bytes of a control stream and gives out its frames.
///
/// It holds one frame that is not whole and what was pushed since; a caller that takes all frames after each
/// push bounds it. Where frames come back through [`recycle`](Self::recycle), those with lists are decoded
/// without an allocation.
#[derive(Default)]
pub struct Decoder {
    bytes: BytesMut,
    spare: Spare,
    failed: Option<WireError>,
}

impl Decoder {
    /// Of a stream of which nothing has come.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes of the stream. After an error they are not kept.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The next frame; `None` if it is not whole.
    ///
    /// # Errors
    ///
    /// What is wrong with the next bytes. It is the answer to every later call, too.
    #[expect(clippy::should_implement_trait, reason = "an iterator would be over at the first `None`")]
    pub fn next(&mut self) -> Result<Option<Frame>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.take().inspect_err(|error| {
            self.failed = Some(*error);
            self.bytes = BytesMut::new();
            self.spare = Spare::default();
        })
    }

    /// Takes the lists of a frame back, to decode later frames into them.
    pub fn recycle(&mut self, frame: Frame) {
        match frame {
            Frame::Chunks { chunks, .. } => keep(&mut self.spare.chunks, chunks, CHUNKS_PER_FRAME),
            Frame::Shape { parts, .. } => keep(&mut self.spare.repeats, parts, REPEATS_PER_FRAME),
            Frame::Ranges { mut runs, .. } => {
                runs.drain(..).for_each(|run| self.spare.keep_ranges(run.ranges));
                keep(&mut self.spare.runs, runs, RANGES_PER_FRAME);
            }
            Frame::Begin { .. }
            | Frame::Fin { .. }
            | Frame::Notify { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Goodbye { .. } => {}
        }
    }

    /// Bytes that were pushed and are not of a frame that was given out.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.bytes.len()
    }

    fn take(&mut self) -> Result<Option<Frame>, WireError> {
        let mut reader = Reader(&self.bytes);
        let (Ok(length), Ok(kind), Ok(flags)) = (reader.u32(), reader.u16(), reader.u16()) else {
            return Ok(None);
        };
        let whole = length as usize;
        if !(size::HEADER..=LONGEST_FRAME).contains(&whole) {
            return Err(WireError::Length(length));
        }
        let (name, flags_known) = parse::known(kind).ok_or(WireError::Kind(kind))?;
        let wrong = |rule| WireError::Rule { frame: name, rule };
        if flags & !flags_known != 0 {
            return Err(wrong("a flag that is not known"));
        }
        let Ok(body) = reader.bytes(whole - size::HEADER) else { return Ok(None) };
        let frame = parse::body(kind, flags, &mut Reader(body), &mut self.spare).map_err(wrong)?;
        self.bytes.advance(whole);
        if self.bytes.is_empty() && self.bytes.try_reclaim(KEPT + 1) {
            self.bytes = BytesMut::new();
        }
        Ok(Some(frame))
    }
}

impl fmt::Debug for Decoder {
    /// Without the bytes: there may be keys among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("buffered", &self.bytes.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Empty lists with room.
#[derive(Default)]
pub(super) struct Spare {
    chunks: Vec<Chunk>,
    repeats: Vec<Repeat>,
    runs: Vec<Run>,
    ranges: Vec<Vec<(u64, u64)>>,
    /// Sum of the room of all `ranges`.
    room: usize,
}

impl Spare {
    pub(super) fn chunks(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.chunks)
    }

    pub(super) fn repeats(&mut self) -> Vec<Repeat> {
        std::mem::take(&mut self.repeats)
    }

    pub(super) fn runs(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.runs)
    }

    pub(super) fn ranges(&mut self) -> Vec<(u64, u64)> {
        let list = self.ranges.pop().unwrap_or_default();
        self.room -= list.capacity();
        list
    }

    fn keep_ranges(&mut self, mut list: Vec<(u64, u64)>) {
        let room = self.room + list.capacity();
        if list.capacity() > 0 && room <= SPARE_RANGES {
            list.clear();
            self.room = room;
            self.ranges.push(list);
        }
    }
}

/// Keeps the longer of two lists, unless it is longer than one that grew to what a frame needs.
fn keep<T>(spare: &mut Vec<T>, mut list: Vec<T>, most: usize) {
    list.clear();
    if list.capacity() > spare.capacity() && list.capacity() <= 2 * most {
        *spare = list;
    }
}
