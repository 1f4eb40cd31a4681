"""How a merged model is made where images are read: fitted layer by layer, or learned by descent."""
