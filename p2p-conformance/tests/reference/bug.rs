//! The mistakes that can be made in the reference backend, each at one place.

use p2p_conformance::Law;

macro_rules! bugs {
    ($($name:ident $law:ident $test:ident $words:literal;)*) => {
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Bug {
            /// The backend as it should be.
            None,
            $(#[doc = $words] $name,)*
        }

        impl Bug {
            #[allow(dead_code, reason = "only the proof of teeth lists them")]
            pub(crate) const ALL: &[(Self, Law)] = &[$((Self::$name, Law::$law),)*];
        }
    };
}

/// Name, the law that must kill it, what is wrong.
macro_rules! table {
    ($then:ident) => {
        $then! {
            CompletesTwice CompletesOnce completes_twice "One completion in 16 is reported twice.";
            LosesEmpty CompletesOnce loses_empty "The send of an empty message is never reported.";
            UniqueTokens CompletesOnce unique_tokens "Of several operations with one token one is kept.";
            RejectedHeld RejectedSuffix rejected_held "The region of the first rejected operation stays in use.";
            RejectedSkipped RejectedSuffix rejected_skipped "Behind a full window the other side is still taken.";
            RejectedEvent RejectedSuffix rejected_event "A rejected operation fails with an event.";
            FailedTakesPlace Order failed_takes_place "A receive with a bad slice swallows a message.";
            NewestFirst Order newest_first "The newest receive is matched first.";
            ShortFirst Order short_first "A short message overtakes long ones, although fifo is claimed.";
            DoneBeforeLast DoneIsVisible done_before_last "A receive is done when its last segment begins.";
            SendDoneEarly DoneIsVisible send_done_early "A send is done when its first segment is out.";
            RoundsUp NothingOutside rounds_up "Copies go in whole words of 8 bytes.";
            FillsGaps NothingOutside fills_gaps "The byte behind each slice is cleared.";
            ChecksFirstSlice NothingOutside checks_first_slice "Only the first slice is checked.";
            ClearsSource NothingOutside clears_source "The source is cleared when it was sent.";
            ClosedBeforeLast Close closed_before_last "Closed comes before the last lost operation.";
            ClosedTwice Close closed_twice "Closing what is closing reports Closed again.";
            NoClosedWhenIdle Close no_closed_when_idle "The peer of an idle connection gets no Closed.";
            LastMessageLost Close last_message_lost "A message on its way is dropped by a close.";
            AcceptsWhileClosing Close accepts_while_closing "A closing connection still takes operations.";
            WhyAtCloser Close why_at_closer "The end that closed gives a reason.";
            CloseConnectingHangs Close close_connecting_hangs "A close while connecting is forgotten.";
            HoldsOnce Retired holds_once "A region counts once for each operation, and is released per slice.";
            ReclaimsEarly Retired reclaims_early "Reclaim does not look whether the region was retired.";
            WrapsOwner Retired wraps_owner "Reclaim returns a part of the owner.";
            RetiredTwice Retired retired_twice "Retired is reported twice.";
            KeepsFailed Retired keeps_failed "A registration that failed keeps the memory.";
            ReadySource Retired ready_source "A source is unused when its last bytes were read, not reported.";
            RetireCancels RetireInFlight retire_cancels "Retire ends what flies.";
            RetiredStillTaken RetireInFlight retired_still_taken "A retiring region is as good as a live one.";
            RetiredRejected RetireInFlight retired_rejected "An operation on a retired region is not taken.";
            StaleCloses StaleIds stale_closes "Close goes by the position alone.";
            StaleCancels StaleIds stale_cancels "Cancel goes by the position alone.";
            StaleRegion StaleIds stale_region "Slices go by the position alone.";
            AcceptsTwice StaleIds accepts_twice "A listener is not used up.";
            RetiresTwice StaleIds retires_twice "A second retire is fine.";
            AnyAddress StaleIds any_address "Bytes that are no address are tried.";
            DropsWhenFull OneEvent drops_when_full "The event that met a full buffer is gone.";
            RetiredLost OneEvent retired_lost "A Retired that met a full buffer is gone.";
            ClosedLost OneEvent closed_lost "A Closed that met a full buffer is gone.";
            BusyAfterFailure BusyClears busy_after_failure "A failed operation keeps its place.";
            BusyAfterCancel BusyClears busy_after_cancel "A withdrawn operation keeps its place.";
            BusyUntilEmpty BusyClears busy_until_empty "A full window opens again when it is empty.";
            PollsAll BoundedWork polls_all "A poll copies all there is.";
            SubmitScans BoundedWork submit_scans "Each submission walks all that is pending, four times.";
            OffByOne Windows off_by_one "One more fits.";
            OneWindow Windows one_window "Sends and receives share the larger window.";
            CancelFreesTwice Windows cancel_frees_twice "A withdrawn operation frees two places.";
            ScatterRestarts Messages scatter_restarts "Each slice gets the first bytes of the message.";
            EmptySliceEnds Messages empty_slice_ends "An empty slice ends the list.";
            MaximumExcluded Messages maximum_excluded "The longest message is too long.";
            LastSliceLost Messages last_slice_lost "A list of max_slices is refused.";
            Overruns TooLong overruns "Too long a message runs on behind the last slice.";
            TruncatesSilently TooLong truncates_silently "Too long a message is cut and done.";
            TruncatedKeeps TooLong truncated_keeps "The rest of a truncated message meets the next receive.";
            SendsFirst BothWays sends_first "Receives move when no send is pending.";
            IdleDeath Death idle_death "An idle connection does not notice.";
            DeathSpares Death death_spares "Receives stay pending when the peer dies.";
            NoReason Death no_reason "Nobody knows why the connection was lost.";
            WaitsForEver Death waits_for_ever "An accept without a peer waits for ever.";
            CancelledDone Cancel cancelled_done "A withdrawn receive completes as well.";
            CancelSilent Cancel cancel_silent "A withdrawn receive has no event.";
            CancelStarted Cancel cancel_started "What has started can be withdrawn, and goes on.";
            CancelOldest Cancel cancel_oldest "The oldest of a token is withdrawn.";
            CancelTakesPlace Cancel cancel_takes_place "A withdrawn receive swallows a message.";
            LeaksUsed Drop leaks_used "Drop forgets regions with users.";
            LeaksConnecting Drop leaks_connecting "Drop while connecting forgets the regions.";
            FreesOnRetire Drop frees_on_retire "The owner is dropped when Retired is reported.";
            WritesOn Drop writes_on "Memory outlives the drop, for a message that is on its way.";
            BoxPerOperation NoAllocation box_per_operation "Each operation is boxed.";
            ListPerCancel NoAllocation list_per_cancel "A cancellation collects candidates.";
            ListPerPoll NoAllocation list_per_poll "A poll that reports something collects first.";
            LostKeeps RunsEnd lost_keeps "Operations that end ConnLost keep their regions.";
            BothClose RunsEnd both_close "Two ends that close at once wait for each other.";
            IdleWithWork RunsEnd idle_with_work "A poll says Idle while receives are pending.";
            NotSeeded SameTrace not_seeded "Delays come from a counter of the process.";
        }
    };
}
#[allow(unused_imports, reason = "only the proof of teeth uses it again")]
pub(crate) use table;
table!(bugs);
