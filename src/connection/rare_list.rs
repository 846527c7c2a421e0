//! A list that is empty most of the time.

/// A list that takes the space of a pointer while it is empty, because idle connections keep many of them.
#[derive(Debug)]
pub(super) struct RareList<T>(Option<Box<Items<T>>>);

#[derive(Debug)]
struct Items<T>(Vec<T>);

impl<T> RareList<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn push(&mut self, item: T) {
        self.0.get_or_insert_with(|| Box::new(Items(Vec::new()))).0.push(item);
    }

    /// Takes all items, in order.
    pub(super) fn take(&mut self) -> Vec<T> {
        self.0.take().map_or_else(Vec::new, |items| items.0)
    }
}
