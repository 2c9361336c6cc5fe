//! The end of an operation as a future.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use p2p_proto::peer::Outcome;

use super::shared::Shared;
use super::slots::{OpId, Status};

/// Resolves to how an operation ended. It needs no runtime; somebody has to drive the endpoint, its progress thread
/// for instance. Dropping it detaches the operation, which goes on.
#[must_use = "dropping it detaches the operation"]
pub struct Ending {
    shared: Arc<Shared>,
    /// Until its end was taken.
    id: Option<OpId>,
}

impl Ending {
    pub(super) const fn new(shared: Arc<Shared>, id: Option<OpId>) -> Self {
        Self { shared, id }
    }
}

impl Future for Ending {
    /// `None` if the end was taken by somebody else.
    type Output = Option<Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(id) = self.id else { return Poll::Ready(None) };
        match self.shared.slots.poll_with(id, context.waker()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(status) => {
                self.id = None;
                Poll::Ready(match status {
                    Status::Ended(outcome) => Some(outcome),
                    Status::Pending | Status::Unknown => None,
                })
            }
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.shared.slots.detach(id);
        }
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").field("id", &self.id).finish_non_exhaustive()
    }
}
