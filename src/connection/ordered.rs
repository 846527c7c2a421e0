//! A queue in the order of its keys, from which any value can be taken at low cost.

use std::collections::VecDeque;

/// The values of rising keys, in order.
///
/// Most keys are inserted in order. A value that is taken out of the middle leaves a gap, and the gaps are closed when
/// they are the larger part. Each operation takes logarithmic time at most, averaged over many.
#[derive(Debug)]
pub(super) struct Ordered<V> {
    /// Neither end is a gap.
    slots: VecDeque<(u64, Option<V>)>,
    len: usize,
}

/// The slots that an empty queue keeps at most.
const MAX_KEPT: usize = 64;

impl<V> Ordered<V> {
    pub(super) const fn new() -> Self {
        Self { slots: VecDeque::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Inserts a value, whose key has none.
    pub(super) fn insert(&mut self, key: u64, value: V) {
        if self.slots.capacity() == 0 {
            // Most connections have one value at a time.
            self.slots.reserve_exact(1);
        }
        self.len += 1;
        match self.slots.back() {
            Some((last, _)) if *last > key => {
                let at = self.slots.partition_point(|slot| slot.0 < key);
                match &mut self.slots[at] {
                    (found, gap) if *found == key => *gap = Some(value),
                    _ => self.slots.insert(at, (key, Some(value))),
                }
            }
            _ => self.slots.push_back((key, Some(value))),
        }
    }

    pub(super) fn get(&self, key: u64) -> Option<&V> {
        self.position(key).and_then(|at| self.slots[at].1.as_ref())
    }

    pub(super) fn first_key(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.slots.iter().filter_map(|slot| slot.1.as_ref().map(|value| (slot.0, value)))
    }

    /// Takes the value of the lowest key.
    pub(super) fn pop_first(&mut self) -> Option<V> {
        self.slots.front_mut().and_then(|slot| slot.1.take()).inspect(|_| self.on_taken(1))
    }

    /// Takes a value.
    pub(super) fn remove(&mut self, key: u64) -> Option<V> {
        let at = self.position(key)?;
        self.slots[at].1.take().inspect(|_| self.on_taken(1))
    }

    /// Takes the values that match, in order.
    pub(super) fn take_if(&mut self, mut matches: impl FnMut(&V) -> bool) -> Vec<V> {
        let taken: Vec<_> = self.slots.iter_mut().filter_map(|slot| slot.1.take_if(|value| matches(value))).collect();
        self.on_taken(taken.len());
        taken
    }

    /// Takes all values, in order.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = V> + use<V> {
        self.len = 0;
        std::mem::take(&mut self.slots).into_iter().filter_map(|slot| slot.1)
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.slots.binary_search_by_key(&key, |slot| slot.0).ok()
    }

    /// Restores the invariants after values were taken.
    fn on_taken(&mut self, values: usize) {
        self.len -= values;
        if self.len == 0 {
            // Most often one, which costs less this way than by `clear`.
            while self.slots.pop_front().is_some() {}
            if self.slots.capacity() > MAX_KEPT {
                self.slots = VecDeque::new();
            }
            return;
        }
        while self.slots.front().is_some_and(|slot| slot.1.is_none()) {
            self.slots.pop_front();
        }
        while self.slots.back().is_some_and(|slot| slot.1.is_none()) {
            self.slots.pop_back();
        }
        if self.slots.len() > 2 * self.len {
            self.slots.retain(|slot| slot.1.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64),
        Remove(u64),
        PopFirst,
        TakeIf(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0_u64..60).prop_map(Step::Insert),
            4 => (0_u64..60).prop_map(Step::Remove),
            2 => Just(Step::PopFirst),
            1 => (2_u64..6).prop_map(Step::TakeIf),
        ];
        vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn ordered_queue_behaves_as_a_map(steps in steps()) {
            let (mut queue, mut map) = (Ordered::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(key) if map.contains_key(&key) => assert_eq!(queue.get(key), Some(&key)),
                    Step::Insert(key) => {
                        queue.insert(key, key);
                        map.insert(key, key);
                    }
                    Step::Remove(key) => assert_eq!(queue.remove(key), map.remove(&key)),
                    Step::PopFirst => assert_eq!(queue.pop_first(), map.pop_first().map(|entry| entry.1)),
                    Step::TakeIf(divisor) => {
                        let expected: Vec<_> = map.keys().copied().filter(|key| key % divisor == 0).collect();
                        map.retain(|key, _| key % divisor != 0);
                        assert_eq!(queue.take_if(|value| value % divisor == 0), expected);
                    }
                }
                assert_eq!((queue.len(), queue.first_key()), (map.len(), map.keys().next().copied()));
                assert!(queue.iter().map(|(key, _)| key).eq(map.keys().copied()));
                assert!(queue.slots.len() <= 2 * queue.len(), "gaps are at most as many as values");
            }
            assert!(queue.take_all().eq(map.into_values()));
            assert!(queue.is_empty());
        }
    }
}
