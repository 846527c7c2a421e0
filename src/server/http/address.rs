//! Limits per remote address, so that one address cannot take all places.

use std::{
    collections::{HashMap, hash_map},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Returns the part of an address that is limited: for IPv6 the first 64 bits, which is the network of one customer.
pub(crate) fn address_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// A limit on how many permits each address may hold at once.
#[derive(Debug)]
pub(crate) struct AddressLimit {
    limit: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

impl AddressLimit {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: Mutex::default() })
    }

    /// Returns a permit, or `None` if the address holds as many as it may. `None` as the address is not limited.
    pub(crate) fn try_acquire(self: &Arc<Self>, address: Option<IpAddr>) -> Option<AddressPermit> {
        if let Some(address) = address {
            let mut held = self.held();
            let held = held.entry(address).or_default();
            if *held >= self.limit {
                return None;
            }
            *held += 1;
        }
        Some(AddressPermit { limit: self.clone(), address })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // A panic under the lock cannot leave the counts inconsistent.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A permit of an [`AddressLimit`], until dropped.
#[derive(Debug)]
pub(crate) struct AddressPermit {
    limit: Arc<AddressLimit>,
    address: Option<IpAddr>,
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        if let hash_map::Entry::Occupied(mut held) = self.limit.held().entry(address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_counted_per_prefix_and_returned() {
        let limit = AddressLimit::new(2);
        let acquire = |address: &str| limit.try_acquire(Some(address_prefix(address.parse().expect("an address"))));
        let first = acquire("2001:db8::1").expect("free");
        let _second = acquire("2001:db8::2").expect("free");
        assert!(acquire("2001:db8::3").is_none());
        assert!(acquire("2001:db8:0:1::1").is_some());
        assert!(limit.try_acquire(None).is_some());
        drop(first);
        assert!(acquire("2001:db8::3").is_some());
        let mapped = [acquire("10.0.0.1"), acquire("::ffff:10.0.0.1"), acquire("10.0.0.1")];
        assert_eq!(mapped.map(|permit| permit.is_some()), [true, true, false]);
        drop(_second);
        assert!(limit.held().is_empty());
    }
}
