//! The endpoint of the next attempt.

use std::sync::Arc;

use crate::backoff::Failure;

/// The place in the list of a client's endpoints.
pub(super) struct Failover {
    endpoints: Arc<[String]>,
    current: usize,
    /// The failed attempts of this round, which ends when each endpoint has had one.
    failed: usize,
    /// The failure of this round with the longest wait.
    worst: Failure,
}

impl Failover {
    pub(super) fn new(endpoints: Arc<[String]>) -> Self {
        Self { endpoints, current: 0, failed: 0, worst: Failure::Unreachable }
    }

    /// Returns the place of the endpoint to dial. It is the first one of a list that was set since the last attempt.
    pub(super) fn current(&mut self, endpoints: &Arc<[String]>) -> usize {
        if !Arc::ptr_eq(&self.endpoints, endpoints) {
            *self = Self::new(endpoints.clone());
        }
        self.current
    }

    /// Moves on to the next endpoint. At the end of a round, returns the failure that decides on the wait.
    ///
    /// An endpoint that refuses the client says nothing about the others, so it delays only the next round.
    pub(super) fn on_failure(&mut self, failure: Failure) -> Option<Failure> {
        self.current = (self.current + 1) % self.endpoints.len();
        self.failed += 1;
        self.worst = self.worst.max(failure);
        let worst = self.worst;
        let is_round_over = self.failed >= self.endpoints.len();
        if is_round_over {
            self.on_success();
        }
        is_round_over.then_some(worst)
    }

    /// Stays with the endpoint, and begins a new round.
    pub(super) fn on_success(&mut self) {
        (self.failed, self.worst) = (0, Failure::Unreachable);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(seconds: u64) -> Failure {
        Failure::Refused { retry_after: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn longest_refusal_of_a_round_decides_on_the_wait_before_the_next() {
        let list: Arc<[String]> = ["a", "b", "c"].map(String::from).into();
        let mut failover = Failover::new(list.clone());
        let plain = Failure::Refused { retry_after: None };
        for round in [
            [refused(9), Failure::Unreachable, refused(3)],
            [plain, refused(0), Failure::Unreachable],
            [Failure::Unreachable, Failure::Unreachable, plain],
            [Failure::Unreachable; 3],
        ] {
            let expected = round.into_iter().max_by_key(|failure| match failure {
                Failure::Unreachable => -2,
                Failure::Refused { retry_after: None } => -1,
                Failure::Refused { retry_after: Some(wait) } => wait.as_secs().cast_signed(),
            });
            assert_eq!(round.map(|failure| failover.on_failure(failure)), [None, None, expected]);
            assert_eq!(failover.current(&list), 0);
        }
    }

    #[test]
    fn success_keeps_the_endpoint_and_new_list_begins_at_its_first() {
        let list: Arc<[String]> = ["a", "b"].map(String::from).into();
        let mut failover = Failover::new(list.clone());
        assert_eq!(failover.on_failure(refused(9)), None);
        failover.on_success();
        assert_eq!(failover.current(&list), 1);
        assert_eq!(failover.on_failure(Failure::Unreachable), None, "a new round");
        assert_eq!(failover.on_failure(Failure::Unreachable), Some(Failure::Unreachable));
        assert_eq!(failover.current(&list), 1);
        assert_eq!(failover.current(&["a", "b"].map(String::from).into()), 0);
    }
}
