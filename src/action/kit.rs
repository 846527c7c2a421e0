//! The actions of the requests of the crate `ocpp-kit`.

use crate::action::table;

macro_rules! requests {
    ($version:ident; $($name:literal: $request:ident $(=> $response:ident)?;)*) => {
        $(requests!(@bind $version $name $request $($response)?);)*
    };
    (@bind $version:ident $name:literal $request:ident) => {
        #[diagnostic::do_not_recommend]
        impl super::SendAction for ocpp_kit::$version::$request {
            const NAME: &'static str = $name;
            type Request = Self;

            fn params(&self) -> &Self {
                self
            }
        }
    };
    (@bind $version:ident $name:literal $request:ident $response:ident) => {
        #[diagnostic::do_not_recommend]
        impl super::Action for ocpp_kit::$version::$request {
            const NAME: &'static str = $name;
            type Request = Self;
            type Response = ocpp_kit::$version::$response;

            fn params(&self) -> &Self {
                self
            }
        }
    };
}

table::ocpp1_6!(requests);
table::ocpp2_0_1!(requests);
table::ocpp2_1!(requests);
