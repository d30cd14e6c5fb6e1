//! Which nodes a command shows.

use clap::Args;
use serde::Serialize;
use shared::identifiers::{BundleName, ChannelName, NodeName};

/// The nodes to show; without an option, all.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(super) struct Selection {
    /// Only nodes that run this bundle.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    pub(super) bundle: Option<BundleName>,
    /// Only nodes that follow this channel.
    #[arg(long, value_name = "CHANNEL")]
    pub(super) channel: Option<ChannelName>,
    /// Only this node.
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<NodeName>,
}

impl Selection {
    /// Whether a node belongs to it, its channel aside.
    pub(super) fn takes(&self, node: &NodeName, bundle: &BundleName) -> bool {
        self.node.as_ref().is_none_or(|wanted| wanted == node)
            && self.bundle.as_ref().is_none_or(|wanted| wanted == bundle)
    }

    /// Whether a node that follows this channel belongs to it.
    pub(super) fn takes_channel(&self, channel: Option<&ChannelName>) -> bool {
        self.channel.is_none() || self.channel.as_ref() == channel
    }

    /// Filter for what its nodes report.
    pub(super) fn reports_filter(&self, event_token: &str) -> String {
        let bundle = self.bundle.as_ref().map_or("*", BundleName::as_str);
        let node = self.node.as_ref().map_or("*", NodeName::as_str);
        format!("bundle.{event_token}.{bundle}.node.{node}")
    }
}
