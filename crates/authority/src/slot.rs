//! The two slots of a kind, and what is in them.

use std::sync::Arc;

use signet_time::UnixTime;

use crate::{
    journal::{Record, SlotId, Status},
    timing,
    view::{AuthorityState, KindView},
};

/// An authority in a slot.
#[derive(Debug)]
pub(crate) struct LocalAuthority<T> {
    pub status: Status,
    pub issued_at: UnixTime,
    pub not_after: UnixTime,
    pub authority_id: String,
    pub upstream_authority_id: String,
    /// What signs; an old authority has let go of it.
    pub material: Option<Arc<T>>,
}

impl<T> LocalAuthority<T> {
    /// One that was just made.
    pub(crate) fn prepared(record: &impl Record, material: T) -> Self {
        Self { status: Status::Prepared, ..Self::of(record, material) }
    }

    /// One that the journal knows; an old one lets go of its key.
    pub(crate) fn of(record: &impl Record, material: T) -> Self {
        Self {
            status: record.status(),
            issued_at: record.issued_at(),
            not_after: record.not_after(),
            authority_id: record.authority_id().to_owned(),
            upstream_authority_id: record.upstream_authority_id().to_owned(),
            material: (record.status() != Status::Old).then(|| Arc::new(material)),
        }
    }

    /// Whether it could sign at `now`: it has its key, has not expired, and was not made in what
    /// is now the future (the clock was set back).
    fn is_usable(&self, now: UnixTime) -> bool {
        self.material.is_some()
            && now < self.not_after
            && self.issued_at <= now + timing::BACKWARD_TOLERANCE
    }
}

#[derive(Debug)]
pub(crate) struct Slot<T> {
    pub id: SlotId,
    pub held: Option<LocalAuthority<T>>,
}

/// The slots of a kind: `current` signs (or is empty), `next` holds its successor or predecessor.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    pub current: Slot<T>,
    pub next: Slot<T>,
}

/// What a look at the clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// Prepare a successor; it is not yet its time.
    Prepare,
    /// The prepared successor's time has come.
    Activate,
    /// Nothing usable signs and nothing usable is prepared: prepare and activate at once.
    Replace,
}

impl<T> Slots<T> {
    pub(crate) fn empty() -> Self {
        Self {
            current: Slot { id: SlotId::A, held: None },
            next: Slot { id: SlotId::B, held: None },
        }
    }

    /// Recovered slots: the newest active authority is current, the newest of the others next.
    /// Without an active one the next takes its place (it is then activated).
    pub(crate) fn recovered(
        active: Option<(SlotId, LocalAuthority<T>)>,
        other: Option<(SlotId, LocalAuthority<T>)>,
    ) -> Self {
        match (active, other) {
            (Some((id, held)), other) => Self {
                current: Slot { id, held: Some(held) },
                next: Slot {
                    id: id.other(),
                    held: other.filter(|(slot, _)| *slot == id.other()).map(|(_, held)| held),
                },
            },
            (None, Some((id, held))) => Self {
                current: Slot { id: id.other(), held: None },
                next: Slot { id, held: Some(held) },
            },
            (None, None) => Self::empty(),
        }
    }

    /// `published_for` is how long others have to know an authority before it signs, seconds: it
    /// waits for that, but never so long that nothing signs.
    pub(crate) fn due(&self, now: UnixTime, published_for: i64) -> Due {
        let Some(current) = self.current.held.as_ref().filter(|held| held.is_usable(now)) else {
            return self.due_without_current(now);
        };
        let (issued_at, not_after) = (current.issued_at, current.not_after);
        let activate = now >= timing::activate_at(issued_at, not_after);
        let must_activate = published_for == 0 || now >= timing::latest_at(issued_at, not_after);
        let prepared = self.prepared().filter(|prepared| prepared.is_usable(now));
        match prepared {
            Some(prepared) if activate => {
                let is_known = now >= prepared.issued_at + published_for;
                if is_known || must_activate { Due::Activate } else { Due::Nothing }
            }
            Some(_) => Due::Nothing,
            None if activate && must_activate => Due::Replace,
            None if now >= timing::prepare_at(issued_at, not_after) => Due::Prepare,
            None => Due::Nothing,
        }
    }

    /// What is due when what is in the current slot must not sign.
    pub(crate) fn due_without_current(&self, now: UnixTime) -> Due {
        if self.has_usable_prepared(now) { Due::Activate } else { Due::Replace }
    }

    fn has_usable_prepared(&self, now: UnixTime) -> bool {
        self.prepared().is_some_and(|prepared| prepared.is_usable(now))
    }

    pub(crate) fn prepared(&self) -> Option<&LocalAuthority<T>> {
        self.next.held.as_ref().filter(|next| next.status == Status::Prepared)
    }

    /// Puts the empty slot (if only one is in use) where the next authority goes.
    pub(crate) fn make_room(&mut self) {
        if self.current.held.is_none() {
            std::mem::swap(&mut self.current, &mut self.next);
        }
    }

    /// A prepared authority whose key was just replaced can never sign.
    pub(crate) fn forget_prepared(&mut self) {
        if self.prepared().is_some() {
            self.next.held = None;
        }
    }

    /// Makes next current; what was current becomes old and lets go of its key.
    pub(crate) fn swap(&mut self) {
        std::mem::swap(&mut self.current, &mut self.next);
        if let Some(held) = &mut self.current.held {
            held.status = Status::Active;
        }
        if let Some(held) = &mut self.next.held {
            held.status = Status::Old;
            held.material = None;
        }
    }

    pub(crate) fn active(&self) -> Option<&LocalAuthority<T>> {
        self.current.held.as_ref().filter(|held| held.status == Status::Active)
    }

    pub(crate) fn view(&self) -> KindView {
        let state = |slot: &Slot<T>| {
            slot.held.as_ref().map(|held| AuthorityState {
                authority_id: held.authority_id.clone(),
                status: held.status,
                slot: Some(slot.id),
                issued_at: held.issued_at,
                expires_at: held.not_after,
                upstream_authority_id: held.upstream_authority_id.clone(),
            })
        };
        KindView {
            active: state(&self.current).filter(|state| state.status == Status::Active),
            next: state(&self.next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn held(status: Status, issued_at: UnixTime) -> LocalAuthority<()> {
        LocalAuthority {
            status,
            issued_at,
            not_after: issued_at + DAY,
            authority_id: issued_at.seconds().to_string(),
            upstream_authority_id: String::new(),
            material: (status != Status::Old).then(|| Arc::new(())),
        }
    }

    fn slots(current: Option<LocalAuthority<()>>, next: Option<LocalAuthority<()>>) -> Slots<()> {
        Slots {
            current: Slot { id: SlotId::A, held: current },
            next: Slot { id: SlotId::B, held: next },
        }
    }

    #[test]
    fn follows_the_clock_through_a_normal_life() {
        let mut slots = slots(Some(held(Status::Active, UnixTime::EPOCH)), None);
        assert_eq!(slots.due(UnixTime::EPOCH, 0), Due::Nothing);
        assert_eq!(slots.due(UnixTime::from_seconds(DAY / 2 - 1), 0), Due::Nothing);
        assert_eq!(slots.due(UnixTime::from_seconds(DAY / 2), 0), Due::Prepare);
        slots.next.held = Some(held(Status::Prepared, UnixTime::from_seconds(DAY / 2)));
        assert_eq!(slots.due(UnixTime::from_seconds(DAY / 2), 0), Due::Nothing);
        assert_eq!(slots.due(UnixTime::from_seconds(DAY * 5 / 6), 0), Due::Activate);
        slots.swap();
        assert_eq!(slots.due(UnixTime::from_seconds(DAY * 5 / 6), 0), Due::Nothing);
        assert_eq!((slots.current.id, slots.next.id), (SlotId::B, SlotId::A));
        let view = slots.view();
        assert_eq!(view.old().unwrap().authority_id, "0");
        assert_eq!(view.active.unwrap().status, Status::Active);
    }

    #[test]
    fn a_jump_forward_past_everything_asks_for_a_replacement() {
        let slots = slots(
            Some(held(Status::Active, UnixTime::EPOCH)),
            Some(held(Status::Prepared, UnixTime::from_seconds(DAY / 2))),
        );
        assert_eq!(
            slots.due(UnixTime::from_seconds(DAY + 1), 0),
            Due::Activate,
            "the prepared one still lives"
        );
        assert_eq!(slots.due(UnixTime::from_seconds(10 * DAY), 0), Due::Replace);
    }

    #[test]
    fn a_jump_back_before_the_issue_asks_for_a_replacement() {
        let slots = slots(
            Some(held(Status::Active, UnixTime::from_seconds(10 * DAY))),
            Some(held(Status::Old, UnixTime::from_seconds(9 * DAY))),
        );
        assert_eq!(
            slots.due(UnixTime::from_seconds(10 * DAY - timing::BACKWARD_TOLERANCE), 0),
            Due::Nothing
        );
        assert_eq!(
            slots.due(UnixTime::from_seconds(10 * DAY - timing::BACKWARD_TOLERANCE - 1), 0),
            Due::Replace
        );
    }

    #[test]
    fn a_prepared_authority_waits_until_others_may_know_it_but_not_until_nothing_signs() {
        let late = DAY * 5 / 6 + 100;
        let mut slots = slots(
            Some(held(Status::Active, UnixTime::EPOCH)),
            Some(held(Status::Prepared, UnixTime::from_seconds(late))),
        );
        assert_eq!(slots.due(UnixTime::from_seconds(late), 900), Due::Nothing);
        assert_eq!(slots.due(UnixTime::from_seconds(late + 899), 900), Due::Nothing);
        assert_eq!(slots.due(UnixTime::from_seconds(late + 900), 900), Due::Activate);
        let latest = timing::latest_at(UnixTime::EPOCH, UnixTime::from_seconds(DAY));
        assert_eq!(slots.due(latest - 1, DAY), Due::Nothing);
        assert_eq!(slots.due(latest, DAY), Due::Activate);
        // One that was to be prepared long ago is prepared first, as long as there is time.
        slots.next.held = None;
        assert_eq!(slots.due(UnixTime::from_seconds(late), 900), Due::Prepare);
        assert_eq!(slots.due(latest, 900), Due::Replace);
    }

    #[test]
    fn an_old_authority_never_signs_again() {
        let slots = slots(None, Some(held(Status::Old, UnixTime::EPOCH)));
        assert_eq!(slots.due(UnixTime::from_seconds(1), 0), Due::Replace);
        assert!(slots.view().active.is_none());
    }
}
