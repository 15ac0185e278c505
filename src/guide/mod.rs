//! The guide: how a mesh behaves, how it is kept safe and run, and how the program is built.
//!
//! These pages are prose. The same files can be read in the repository, in `src/guide/`.

/// Links between the pages. In the repository the definitions at the end of each file count; here these
/// come first, and the first definition counts.
macro_rules! page {
    ($name:ident, $text:expr) => {
        #[doc = "[addressing]: addressing"]
        #[doc = "[architecture]: architecture"]
        #[doc = "[behaviour]: behaviour"]
        #[doc = "[carriers]: carriers"]
        #[doc = "[contributing]: contributing"]
        #[doc = "[operations]: operations"]
        #[doc = "[packages]: packages"]
        #[doc = "[performance]: performance"]
        #[doc = "[security]: security"]
        #[doc = "[stability]: stability"]
        #[doc = ""]
        #[doc = $text]
        pub mod $name {}
    };
}

page!(behaviour, include_str!("behaviour.md"));
page!(security, include_str!("security.md"));
page!(addressing, include_str!("addressing.md"));
page!(carriers, include_str!("carriers.md"));
page!(operations, include_str!("operations.md"));
page!(packages, include_str!("packages.md"));
page!(performance, include_str!("performance.md"));
page!(stability, include_str!("stability.md"));
page!(architecture, include_str!("architecture.md"));
page!(contributing, include_str!("contributing.md"));
