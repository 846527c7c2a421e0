//! `--nats`: several backends as one cluster.

use std::error::Error;

use ocpp_rpc::server::RpcServerBuilder;

#[derive(clap::Args)]
pub(crate) struct Cluster {
    /// Joins the cluster at this NATS server. Each node then lists and calls the stations of all. Nodes on several
    /// machines need one PostgreSQL database. Requires the feature `nats`.
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// The name of this node in lists. By default the name of the host, and a random part.
    #[arg(long, value_name = "NAME", requires = "nats")]
    node: Option<String>,
}

impl Cluster {
    /// Warns if the nodes may not share the database of this URL.
    pub(crate) fn warn_of_database(&self, url: &str) {
        if self.nats.is_some() && url.starts_with("sqlite:") {
            tracing::warn!("nodes on several machines cannot share a SQLite database: use PostgreSQL");
        }
    }

    /// Adds the cluster to a server if the flag is set.
    #[cfg(feature = "nats")]
    pub(crate) async fn add_to(&self, server: RpcServerBuilder) -> Result<RpcServerBuilder, Box<dyn Error>> {
        use ocpp_rpc_nats::Nats;

        let Some(url) = &self.nats else { return Ok(server) };
        let connected = Nats::connect(url.as_str()).await;
        let mut nats = connected.map_err(|error| format!("cannot connect to NATS: {error}"))?;
        if let Some(node) = &self.node {
            nats = nats.node_name(node);
        }
        Ok(server.cluster(nats))
    }

    #[cfg(not(feature = "nats"))]
    #[expect(clippy::unused_async, reason = "the same signature as with the feature")]
    pub(crate) async fn add_to(&self, server: RpcServerBuilder) -> Result<RpcServerBuilder, Box<dyn Error>> {
        if self.nats.is_some() {
            return Err("--nats requires the feature `nats`: build with `--features nats`".into());
        }
        Ok(server)
    }
}
