//! Listings; see [`super::directory`] for their offsets.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::directory::{Contents, Entry, FIRST_UPPER};
use super::engine::{Engine, parent_of};
use super::node::Node;
use crate::union::{Attributes, Listed, NodeNumber, Result};

/// Takes an entry; the attributes are there where they were asked for.
type Emit<'a> = &'a mut dyn FnMut(Listed<'_>, Option<&Attributes>) -> ControlFlow<()>;

impl Engine {
    /// See [`super::Overlay::list`] and [`super::Overlay::list_with_attributes`].
    pub(super) fn list(
        &self,
        directory: NodeNumber,
        offset: u64,
        with_attributes: bool,
        emit: Emit<'_>,
    ) -> Result<()> {
        let _still = self.still();
        let node = self.directory(directory)?;
        let mut offset = offset;
        for (name, at) in [(&b"."[..], 0), (b"..", 1)] {
            if offset > at {
                continue;
            }
            let listed = if at == 0 {
                Arc::clone(&node)
            } else {
                parent_of(&node).unwrap_or(Arc::clone(&node))
            };
            let attributes = match with_attributes {
                true => Some(self.attributes_of(&listed)?),
                false => None,
            };
            offset = at + 1;
            let listed = Listed {
                node: NodeNumber(listed.ino),
                kind: listed.kind,
                name,
                next_offset: offset,
            };
            if emit(listed, attributes.as_ref()).is_break() {
                return Ok(());
            }
        }
        let contents = self.contents(&node)?;
        if contents.removed {
            return Ok(());
        }
        if offset < FIRST_UPPER
            && let Some(base) = contents.base
        {
            if self
                .list_base(&node, &contents, base, offset, with_attributes, emit)?
                .is_break()
            {
                return Ok(());
            }
            offset = FIRST_UPPER;
        }
        self.list_upper(&node, &contents, offset, with_attributes, emit)
    }

    /// The same, where attributes are asked for.
    pub(super) fn list_attributes(
        &self,
        directory: NodeNumber,
        offset: u64,
        emit: &mut dyn FnMut(Listed<'_>, &Attributes) -> ControlFlow<()>,
    ) -> Result<()> {
        self.list(
            directory,
            offset,
            true,
            &mut |listed, attributes| match attributes {
                Some(attributes) => emit(listed, attributes),
                // Always there when asked for.
                None => ControlFlow::Break(()),
            },
        )
    }

    /// The entries that the base has, whoever has them now.
    fn list_base(
        &self,
        directory: &Arc<Node>,
        contents: &Contents,
        base: u64,
        offset: u64,
        with_attributes: bool,
        emit: Emit<'_>,
    ) -> Result<ControlFlow<()>> {
        let mut failure = None;
        let mut flow = ControlFlow::Continue(());
        let mut one = |listed: Listed<'_>, found: Option<&Attributes>| {
            let taken = self.list_one(directory, contents, listed, found, with_attributes, emit);
            match taken {
                Ok((next, kept)) => {
                    flow = next;
                    kept
                }
                Err(error) => {
                    failure = Some(error);
                    flow = ControlFlow::Break(());
                    // As after a break, no reference stays with the base.
                    ControlFlow::Break(())
                }
            }
        };
        let start = offset.max(2);
        let base = NodeNumber(base);
        if with_attributes {
            self.base
                .list_with_attributes(base, start, &mut |listed, found| one(listed, Some(found)))?;
        } else {
            self.base
                .list(base, start, &mut |listed| one(listed, None))?;
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(flow),
        }
    }

    /// One entry of the base. Says how to go on, and whether to keep the reference to the base's
    /// object, which goes back with a break.
    fn list_one(
        &self,
        directory: &Arc<Node>,
        contents: &Contents,
        listed: Listed<'_>,
        found: Option<&Attributes>,
        with_attributes: bool,
        emit: Emit<'_>,
    ) -> Result<(ControlFlow<()>, ControlFlow<()>)> {
        const GO_ON: ControlFlow<()> = ControlFlow::Continue(());
        let give_back = || {
            if let Some(found) = found {
                self.base.forget(found.node, 1);
            }
        };
        match contents.get(listed.name) {
            Some(Entry::Whiteout) => {
                give_back();
                Ok((GO_ON, GO_ON))
            }
            Some(Entry::Object(_)) => {
                let Some(node) = self.find_in(directory, contents, listed.name)? else {
                    give_back();
                    return Ok((GO_ON, GO_ON));
                };
                let next = listed.next_offset;
                let flow = self.emit_node(&node, listed.name, next, with_attributes, emit)?;
                if flow.is_continue() {
                    give_back();
                }
                Ok((flow, flow))
            }
            None => match found {
                None => {
                    let flow = emit(listed, None);
                    Ok((flow, flow))
                }
                Some(found) => {
                    // The base's own reference, which it takes back after a break.
                    self.base.hold(found.node);
                    let node = self.hold_found(directory, listed.name, found);
                    let next = listed.next_offset;
                    let flow = self.emit_node(&node, listed.name, next, true, emit)?;
                    if flow.is_continue() {
                        give_back();
                    }
                    Ok((flow, flow))
                }
            },
        }
    }

    /// Emits a node to which a reference was taken; the reference stays if attributes were asked for
    /// and the listing goes on.
    fn emit_node(
        &self,
        node: &Arc<Node>,
        name: &[u8],
        next_offset: u64,
        with_attributes: bool,
        emit: Emit<'_>,
    ) -> Result<ControlFlow<()>> {
        let attributes = match with_attributes {
            true => match self.attributes_of(node) {
                Ok(attributes) => Some(attributes),
                Err(error) => {
                    self.release(node.number, 1);
                    return Err(error);
                }
            },
            false => None,
        };
        let number = if with_attributes {
            node.number
        } else {
            node.ino
        };
        let listed = Listed {
            node: NodeNumber(number),
            kind: node.kind,
            name,
            next_offset,
        };
        let flow = emit(listed, attributes.as_ref());
        if flow.is_break() || !with_attributes {
            self.release(node.number, 1);
        }
        Ok(flow)
    }

    /// The entries that only the upper has.
    fn list_upper(
        &self,
        directory: &Arc<Node>,
        contents: &Contents,
        offset: u64,
        with_attributes: bool,
        emit: Emit<'_>,
    ) -> Result<()> {
        let mut offset = offset;
        while let Some((at, name, _)) = contents.upper_only(offset) {
            offset = at + 1;
            let Some(node) = self.find_in(directory, contents, name)? else {
                continue;
            };
            if self
                .emit_node(&node, name, offset, with_attributes, emit)?
                .is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }
}
