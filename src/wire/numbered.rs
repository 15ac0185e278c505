//! Reasons that are numbers on the wire, so that a later version can have more of them.

/// Gives an enum with `KNOWN`, its values in the order of their numbers, and `Other(u16)` its numbers and its encoding.
macro_rules! numbered {
    ($reason:ident) => {
        impl $reason {
            /// The reason's number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self {
                    Self::Other(number) => number,
                    known => {
                        let at = Self::KNOWN.iter().position(|&reason| reason == known);
                        at.and_then(|at| u16::try_from(at).ok()).unwrap_or(u16::MAX)
                    }
                }
            }

            /// The reason with this number.
            #[must_use]
            pub fn from_number(number: u16) -> Self {
                Self::KNOWN.get(usize::from(number)).copied().unwrap_or(Self::Other(number))
            }
        }

        impl ::bincode::Encode for $reason {
            fn encode<E: ::bincode::enc::Encoder>(
                &self,
                encoder: &mut E,
            ) -> Result<(), ::bincode::error::EncodeError> {
                self.number().encode(encoder)
            }
        }

        impl<Context> ::bincode::Decode<Context> for $reason {
            fn decode<D: ::bincode::de::Decoder<Context = Context>>(
                decoder: &mut D,
            ) -> Result<Self, ::bincode::error::DecodeError> {
                <u16 as ::bincode::Decode<Context>>::decode(decoder).map(Self::from_number)
            }
        }

        ::bincode::impl_borrow_decode!($reason);
    };
}

pub(super) use numbered;
