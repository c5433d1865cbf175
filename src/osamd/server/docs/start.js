// Relative addresses keep the page working behind a path prefix; without validatorUrl no other host is asked.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true, validatorUrl: null });
