//! The pages of the server's web console.
//!
//! Values in, HTML out: nothing here reads the store, signs or listens. Each page is a value that
//! also serialises, so that the same address with `.json` gives the same facts to programs. Text of
//! others (SPIFFE IDs, selectors, hints, errors) is escaped, and what could deceive a reader in it
//! (control and direction characters) is shown as what it is.
//!
//! [`session`] knows who is logged in, [`guard`] what a request must look like to be let in.

pub mod assets;
pub mod guard;
pub mod page;
pub mod session;
mod text;
mod view;

pub use page::Page;
pub use text::relative as ago;
pub use view::{Frame, Section, html};
