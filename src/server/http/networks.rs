//! Lists of addresses and networks, such as those of proxies.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::BuildError;

/// Addresses and networks of hosts that are trusted.
#[derive(Debug, Clone)]
pub(crate) struct Networks(Vec<IpNet>);

impl Networks {
    /// Parses addresses such as `10.0.7.1` and networks such as `10.0.0.0/8`.
    pub(crate) fn parse<N: AsRef<str>>(texts: impl IntoIterator<Item = N>) -> Result<Self, BuildError> {
        let network = |text: N| {
            let text = text.as_ref();
            let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            parsed
                .map_err(|_| BuildError::settings(format!("invalid proxy {text:?}: neither an address nor a network")))
        };
        texts.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `true` if the address is in one of the networks. An IPv4 address may be mapped into IPv6.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}
