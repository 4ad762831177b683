//! To be written.

use std::borrow::Cow;
use std::ops::ControlFlow;

use super::{Attributes, Listed, NodeNumber, OpenContent, Result, Totals};

/// To be written.
#[derive(Debug)]
pub struct Stack;

#[allow(missing_docs, unused_variables)]
impl Stack {
    pub fn lookup(&self, directory: NodeNumber, name: &[u8]) -> Result<Option<Attributes>> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn forget(&self, node: NodeNumber, count: u64) {}
    pub fn attributes(&self, node: NodeNumber) -> Result<Attributes> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn read_link(&self, node: NodeNumber) -> Result<Cow<'_, [u8]>> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn list(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn list_with_attributes(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>, &Attributes) -> ControlFlow<()>,
    ) -> Result<()> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn xattr(&self, node: NodeNumber, name: &[u8]) -> Result<Option<Cow<'_, [u8]>>> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn xattr_names(&self, node: NodeNumber) -> Result<Vec<Cow<'_, [u8]>>> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn may_have_xattrs(&self) -> bool {
        true
    }
    pub fn may_have_acls(&self) -> bool {
        true
    }
    pub fn open(&self, node: NodeNumber) -> Result<OpenContent> {
        Err(nix::errno::Errno::ENOSYS.into())
    }
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
}
